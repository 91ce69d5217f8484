"""Moves bytes: ranges of repository files, through a recipe, into blobs of Ollama, with progress, recovery and limits.

Each recovery has one word, here, in names and in logs. The innermost comes first:

What happens                                     The word           Who handles it     Where
A signed URL has expired                         renew              HttpFile           sources/http_file.py
An endpoint fails or is slow; there is another   fail over          MirroredFile       sources/mirrors.py
A stream is far slower than the others           restart            SlowStreamWatch    transfer/slow_streams.py
A range broke off, or a source throttles          retry              Retries            transfer/retry.py
Bytes arrived damaged                            refetch            Retries            transfer/retry.py
Ollama is gone                                   wait for Ollama    WaitForOllama      transfer/wait_for_ollama.py
An upload to Ollama failed                       re-upload          BlobUpload         transfer/upload.py
The upload that another pull began failed        take over          Transfer           transfer/transfer.py
"""
