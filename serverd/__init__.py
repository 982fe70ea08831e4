"""The serving daemon: controller, frontends and the supervision of replicas."""

if __name__ != "clipperfs.serverd":
    raise ImportError("this folder is clipperfs.serverd; install the project and import it under that name")
