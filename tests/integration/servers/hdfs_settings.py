"""What a NameNode and a DataNode of Hadoop 2.7.3 need: jars, opened modules of the JDK, and settings for loopback."""

from __future__ import annotations

import socket
from pathlib import Path

# Not all 226 jars: Spark's own Jersey 2 and JAX-RS 2 would stand in the way of Jersey 1.
WANTED_JARS = (
    "hadoop-annotations", "hadoop-auth", "hadoop-common", "hadoop-hdfs", "commons-", "guava", "protobuf-java",
    "log4j-1", "slf4j", "jetty", "htrace", "netty", "xmlenc", "jackson-core-asl", "jackson-mapper-asl", "leveldbjni",
    "xercesImpl", "javax.servlet-api", "httpc", "jaxb-api", "activation",
)  # fmt: skip
JERSEY_PACKAGES = (
    "libjersey1-core-java", "libjersey1-server-java", "libjersey1-servlet-java", "libjsr311-api-java", "libasm-java",
)  # fmt: skip
OPENED = (
    "java.base/java.lang", "java.base/java.net", "java.base/java.nio", "java.base/java.io", "java.base/java.util",
    "java.base/sun.nio.ch", "java.security.jgss/sun.security.krb5",
)  # fmt: skip

_LOGGING = """\
log4j.rootLogger=INFO,console
log4j.appender.console=org.apache.log4j.ConsoleAppender
log4j.appender.console.target=System.err
log4j.appender.console.layout=org.apache.log4j.PatternLayout
log4j.appender.console.layout.ConversionPattern=%p %c{1}: %m%n
"""
_WEB_APPLICATION = '<web-app version="2.4" xmlns="http://java.sun.com/xml/ns/j2ee"></web-app>\n'


def write_settings(place: Path, *, with_web: bool) -> tuple[int, int]:
    """Write settings and empty web applications below ``place``; return the NameNode's RPC port and web port."""
    rpc_port, web_port = _free_port(), _free_port()
    settings = place / "settings"
    settings.mkdir()
    _write(settings / "core-site.xml", {"fs.defaultFS": f"hdfs://127.0.0.1:{rpc_port}"})
    _write(
        settings / "hdfs-site.xml",
        {
            "dfs.namenode.name.dir": f"file://{place}/name",
            "dfs.datanode.data.dir": f"file://{place}/data",
            "dfs.namenode.http-address": f"127.0.0.1:{web_port}",
            "dfs.datanode.address": "127.0.0.1:0",
            "dfs.datanode.http.address": "127.0.0.1:0",
            "dfs.datanode.ipc.address": "127.0.0.1:0",
            "dfs.datanode.hostname": "localhost",
            "dfs.replication": "1",
            "dfs.namenode.acls.enabled": "true",
            "dfs.webhdfs.enabled": "true" if with_web else "false",
        },
    )
    (settings / "log4j.properties").write_text(_LOGGING)
    for name in ("hdfs", "datanode", "static"):
        folder = place / "web" / "webapps" / name / "WEB-INF"
        folder.mkdir(parents=True)
        (folder / "web.xml").write_text(_WEB_APPLICATION)
    return rpc_port, web_port


def _write(path: Path, settings: dict[str, str]) -> None:
    lines = [f"<property><name>{name}</name><value>{value}</value></property>" for name, value in settings.items()]
    path.write_text("\n".join(["<configuration>", *lines, "</configuration>", ""]))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
