"""Where repositories come from. A source turns ORG/REPO into a list of files at one commit, and files into bytes.

How to read it:

- `base.py`: the protocols `Source` and `Repository`, which a pull relies on, and how to write a plugin.
- `plugins.py`: makes the configured sources; the first part of a name (`hf.co`) chooses one of them.
- `http_file.py`: one file over HTTP: redirects, signed URLs, ranges, and what each HTTP status means.
- `huggingface.py`: the Hugging Face Hub. `hub_files.py` asks for sizes and digests that its answer lacks,
  `hub_errors.py` explains its refusals, `hub_check.py` is for `doctor`, `mirrors.py` fails over to other endpoints.
- `modelscope.py`: ModelScope. `folder.py`: a folder on this machine; `threads.py` keeps its slow disk off the loop.

How to add a source:

1. Write a class that fits `Source`, and one that fits `Repository` (`folder.py` is the shortest example). The text of
   each error says what happened, to which file, and what the user can do now.
2. Name the class in pyproject.toml, under `[project.entry-points."ollama_hf_proxy.sources"]`. A source in another
   package does the same in its own pyproject.toml; nothing here has to change for it.
3. Users add a table `[sources.NAME]`. A source that needs no table is made in `plugins.build_sources`.
4. Tests: `tests/sources/test_NAME.py` against a stand-in server in `tests/kit/`, such as `stand_in_modelscope.py`.
"""
