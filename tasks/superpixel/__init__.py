"""Digits as graphs of superpixels: which one is it, and does turning the picture matter?"""

from ponita.tasks.superpixel.data import SuperpixelDataModule
from ponita.tasks.superpixel.task import SuperpixelTask

__all__ = ["SuperpixelDataModule", "SuperpixelTask"]
