"""Builds the optional C kernel. Without a compiler the installation goes on, and ggml's library quantizes."""

from pathlib import Path
from shutil import rmtree
from sysconfig import get_config_var

from setuptools import Extension, setup
from setuptools.command.build_py import build_py

# A Python without a GIL has no stable ABI.
STABLE = not get_config_var("Py_GIL_DISABLED")
KERNEL = "proxy/gguf/kernel"


class CleanBuild(build_py):
    """setuptools packs whatever lies in `build/lib`: also modules that have been moved or deleted since."""

    def run(self) -> None:
        if not self.editable_mode:
            rmtree(Path(self.build_lib, "proxy"), ignore_errors=True)
        super().run()


setup(
    cmdclass={"build_py": CleanBuild},
    ext_modules=[
        Extension(
            "proxy.gguf._kernel",
            [f"{KERNEL}/module.c"],
            depends=[f"{KERNEL}/numbers.h", f"{KERNEL}/lanes.h", f"{KERNEL}/sha256.h", f"{KERNEL}/decode.h"],
            define_macros=[("Py_LIMITED_API", "0x030B0000")] if STABLE else [],
            # -ffp-contract=off: a fused multiply-add rounds once, but ggml rounds twice.
            extra_compile_args=["-O3", "-ffp-contract=off", "-fno-math-errno", "-g0"],
            py_limited_api=STABLE,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if STABLE else {},
)
