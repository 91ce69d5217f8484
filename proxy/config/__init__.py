"""The configuration: defaults, a TOML file, the environment and flags are merged into one frozen `Config`.

- `values`: the types of single values. Sizes and durations become bytes and seconds here.
- `sections`: one class for each table of the TOML file, with the defaults; `Config` has them all.
- `loading`: reads the file, the environment and the flags, and says which of them has a wrong value.

Every value is checked and parsed once, here: a `Config` holds bytes and seconds, never texts such as `128MiB` or `2m`.

Test with `pytest tests/test_config.py`.
"""
