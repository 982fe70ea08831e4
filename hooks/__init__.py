"""The built-in hooks: checks that a candidate passes before it becomes active."""

if __name__ != "clipperfs.hooks":
    raise ImportError("this folder is clipperfs.hooks; install the project and import it under that name")
