"""A home to look after: a copy of the module's ``template``, for loading it takes ten times as long."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from msb_cache.artifacts.layout import Layout
from tests.moving import settle


@pytest.fixture
def home(own_home: Path, template: Path) -> Path:
    shutil.copytree(template, own_home)
    settle(own_home)
    return own_home


@pytest.fixture
def layout(home: Path) -> Layout:
    return Layout(home)
