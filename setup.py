"""Adds what pyproject.toml cannot say: configs/ is shipped as the data of the package
iaunet_d2.configs, and a .pth file lets ``import detectron2`` find the stand-in.
"""

from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

# Python runs this line at every start: whatever is wrong with our module, nothing is to fail then.
CODE = r"try:\n import _iaunet_d2_seam as seam; seam.install()\nexcept Exception: pass"
PTH = f'import sys; exec("{CODE}")\n'


class BuildWithPth(build_py):
    """Add iaunet_d2_seam.pth, which has to lie at the top of site-packages."""

    def run(self) -> None:
        super().run()
        # An editable wheel takes no file from build_lib; it is what "install_lib" names.
        install = self.distribution.get_command_obj("install")
        folder = install.install_lib if self.editable_mode else self.build_lib
        Path(folder, "iaunet_d2_seam.pth").write_text(PTH, encoding="utf-8")


setup(
    packages=[*find_packages(include=["iaunet_d2", "iaunet_d2.*"]), "iaunet_d2.configs"],
    package_dir={"iaunet_d2.configs": "configs"},
    package_data={
        "iaunet_d2": ["py.typed"],
        "iaunet_d2.configs": ["*.yaml", "*/*.yaml", "lazy/*.py"],
    },
    py_modules=["_iaunet_d2_seam"],
    cmdclass={"build_py": BuildWithPth},
)
