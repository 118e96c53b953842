"""The embedded micro benchmark: generated SuperGLUE-shaped tasks and a tiny T5 pretrained on their world."""
