"""The built-in wrappers. Each imports its framework in ``load()`` only."""

if __name__ != "clipperfs.wrappers":
    raise ImportError("this folder is clipperfs.wrappers; install the project and import it under that name")
