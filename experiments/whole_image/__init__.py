"""The whole-image classifier: a GoogLeNet that sees each image at once."""
