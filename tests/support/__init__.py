"""What tests share. Import it as ``support``: pytest puts the folder of conftest.py on the path."""

import pkgutil

import pytest

# An assertion that fails here shows its values, as one of a test does.
pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)))
