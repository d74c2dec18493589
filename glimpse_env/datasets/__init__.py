"""Labelled images: Stanford Dogs, any folder of classes, and drawn (synthetic) dogs.

Each dataset is an object that follows `glimpse_env.datasets.base.ImageDataset`; nothing is imported
here, so that drawing synthetic dogs does not need what reading real ones does.
"""
