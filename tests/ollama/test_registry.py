"""The manifest that Ollama pulls, in every field: Ollama stores these bytes, and newer versions read more fields."""

import orjson

from proxy.ollama.registry import UNUSED, Blob, Layer, blob_of, manifest

MODEL, ADAPTER, CONFIG = Blob("sha256:1", 1000), Blob("sha256:2", 0), Blob("sha256:3", 30)


def test_a_manifest_has_dockers_fields_and_runner_and_format() -> None:
    layers = [
        Layer.of("model", MODEL),
        Layer.of("adapter", ADAPTER),
        Layer(UNUSED, MODEL),
        Layer.of("model", MODEL, "b"),
    ]
    assert orjson.loads(manifest(CONFIG, layers)) == {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "digest": "sha256:3",
            "size": 30,
        },
        "layers": [
            {"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:1", "size": 1000},
            {"mediaType": "application/vnd.ollama.image.adapter", "digest": "sha256:2", "size": 0},
            {"mediaType": "application/vnd.ollama-hf-proxy.blob", "digest": "sha256:1", "size": 1000},
            {"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:1", "size": 1000, "from": "b"},
        ],
        "runner": "llamacpp",
        "format": "gguf",
    }


def test_a_layer_gets_the_size_that_ollama_reports() -> None:
    layers = [Layer.of("model", MODEL), Layer.of("adapter", ADAPTER)]
    sized = [layer.with_size({"sha256:2": 7}) for layer in layers]
    assert [layer.blob.size for layer in sized] == [1000, 7]
    assert [layer.media_type for layer in sized] == [layer.media_type for layer in layers]


def test_a_blob_has_the_digest_of_its_content() -> None:
    empty = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert blob_of(b"{}") == Blob(empty, 2)
