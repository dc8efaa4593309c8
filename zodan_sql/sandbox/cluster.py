"""A local cluster: servers in one folder, with members in a full mesh and blanks that belong to no cluster yet."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from zodan_sql.sandbox import os_user, ports
from zodan_sql.sandbox.engine import Engine, detect_engine
from zodan_sql.sandbox.errors import SandboxError
from zodan_sql.sandbox.mesh import form_mesh, wait_replicating
from zodan_sql.sandbox.node import Node, StopMode
from zodan_sql.sandbox.settings import server_settings
from zodan_sql.sandbox.template import engine_parts, template_folder

_STATE_FILE = "state.json"
#: A generated password begins with this, so that a test can find it where it should not be.
PASSWORD_PREFIX = "zdn-"
_PASSWORD_BYTES = 18


class Cluster:
    """The servers of one sandbox. ``create`` makes a new one, ``load`` finds an existing one."""

    def __init__(self, base: Path, engine: Engine, dbname: str, password: str, postgres: Path, settings: str) -> None:
        self.base = base
        self.engine = engine
        self.dbname = dbname
        self.members: list[Node] = []
        self.blanks: list[Node] = []
        self._password = password
        self._postgres = postgres
        self._settings = settings
        self._leases: list[ports.PortLease] = []

    @classmethod
    def create(
        cls,
        base: Path,
        members: Sequence[str],
        blanks: Sequence[str] = (),
        engine: Engine | None = None,
        dbname: str = "app",
        mesh: bool = True,
        extra_conf: Mapping[str, str] | None = None,
        password: str | None = None,
    ) -> Cluster:
        """Create and start a cluster in ``base``, an empty or new folder. If this fails, remove everything again.

        ``members`` form a mesh, unless ``mesh`` is False; then they are no nodes. ``blanks`` have the database with
        its extensions and are no nodes. ``extra_conf`` goes into every postgresql.conf. Without a ``password``, the
        cluster gets a random one.
        """
        engine = engine or detect_engine()
        if base.exists() and any(base.iterdir()):
            raise SandboxError(
                f"{base} is not empty", "Choose another folder, or run zodan-sql sandbox down for the sandbox there."
            )
        base.mkdir(parents=True, exist_ok=True)
        base.chmod(0o755)
        try:
            password = password or f"{PASSWORD_PREFIX}{secrets.token_urlsafe(_PASSWORD_BYTES)}"
            cluster = cls._laid_out(base, engine, dbname, password, extra_conf or {})
        except BaseException:
            os_user.remove_folder(base)
            raise
        try:
            cluster._create_servers(members, blanks)
            if mesh:
                form_mesh(cluster.members)
        except BaseException as error:
            for node in cluster.nodes:
                error.add_note(f"the end of the log of {node.name}:\n{node.log_tail()}")
            cluster.destroy()
            raise
        return cluster

    @classmethod
    def _laid_out(
        cls, base: Path, engine: Engine, dbname: str, password: str, extra_conf: Mapping[str, str]
    ) -> Cluster:
        _check_reachable(base)
        postgres, engine_settings = engine_parts(engine, base / "engine")
        settings = server_settings(engine, engine_settings, extra_conf)
        return cls(base, engine, dbname, password, postgres, settings)

    @classmethod
    def load(cls, base: Path) -> Cluster:
        """Return the cluster that ``create`` made in ``base``. Raises SandboxError if there is none."""
        path = base / _STATE_FILE
        if not path.exists():
            raise SandboxError(f"there is no sandbox in {base}")
        state = json.loads(path.read_text())
        cluster = cls(
            base,
            detect_engine(Path(state["pg_bin"])),
            state["dbname"],
            state["password"],
            Path(state["postgres"]),
            state["settings"],
        )
        cluster.members = [cluster._node(name, port) for name, port in state["members"].items()]
        cluster.blanks = [cluster._node(name, port) for name, port in state["blanks"].items()]
        return cluster

    @property
    def nodes(self) -> list[Node]:
        """All servers, members first."""
        return [*self.members, *self.blanks]

    def __getitem__(self, name: str) -> Node:
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.destroy()

    def add_blank(self, name: str) -> Node:
        """Create and start one more server that is no node."""
        (node,) = self._make_servers([name])
        self.blanks.append(node)
        self._save()
        return node

    def wait_replicating(self) -> None:
        """Wait until every subscription in the cluster replicates."""
        wait_replicating([node for node in self.nodes if node.is_running()])

    def start(self) -> None:
        """Start the servers that are down, all at once."""
        _at_once(Node.start, [node for node in self.nodes if not node.is_running()])

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the running servers, all at once."""
        _at_once(lambda node: node.stop(mode), [node for node in self.nodes if node.is_running()])

    def destroy(self) -> None:
        """Stop the servers immediately, and delete everything."""
        self.stop("immediate")
        os_user.remove_folder(self.base)
        for lease in self._leases:
            lease.release()

    def _create_servers(self, members: Sequence[str], blanks: Sequence[str]) -> None:
        names = [*members, *blanks]
        if len(set(names)) != len(names):
            raise SandboxError(f"two servers have the same name: {', '.join(names)}")
        # Set before the servers start: if one fails to start, destroy stops the others.
        nodes = self._prepare_servers(names)
        self.members, self.blanks = nodes[: len(members)], nodes[len(members) :]
        _at_once(_start_first, nodes)
        self._save()

    def _make_servers(self, names: Sequence[str]) -> list[Node]:
        nodes = self._prepare_servers(names)
        _at_once(_start_first, nodes)
        return nodes

    def _prepare_servers(self, names: Sequence[str]) -> list[Node]:
        template = template_folder(self.engine, self.dbname)
        leases = [ports.lease_port() for _ in names]
        self._leases += leases
        nodes = [self._node(name, lease.port) for name, lease in zip(names, leases, strict=True)]
        _at_once(lambda node: node.create(template, self._settings), nodes)
        return nodes

    def _node(self, name: str, port: int) -> Node:
        return Node(name, self.base / name, self.engine, port, self.dbname, self._password, self._postgres)

    def _save(self) -> None:
        state = {
            "engine": self.engine.description,
            "pg_bin": str(self.engine.pg_bin),
            "postgres": str(self._postgres),
            "dbname": self.dbname,
            "password": self._password,
            "settings": self._settings,
            "members": {node.name: node.port for node in self.members},
            "blanks": {node.name: node.port for node in self.blanks},
        }
        path = self.base / _STATE_FILE
        path.touch(mode=0o600)
        path.write_text(json.dumps(state, indent=2) + "\n")


def _start_first(node: Node) -> None:
    node.start()
    node.set_password()


def _at_once(action: Callable[[Node], None], nodes: Iterable[Node]) -> None:
    every = list(nodes)
    if not every:
        return
    with ThreadPoolExecutor(max_workers=len(every)) as pool:
        list(pool.map(action, every))


def _check_reachable(base: Path) -> None:
    try:
        os_user.run(["test", "-x", str(base)])
    except SandboxError as error:
        raise SandboxError(
            f"the operating system user of PostgreSQL cannot enter {base}", "Choose a folder below /tmp or /var/tmp."
        ) from error
