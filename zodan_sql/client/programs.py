"""What a program of PostgreSQL is given to connect with: no argument holds a secret."""

from __future__ import annotations

import os

from psycopg.conninfo import make_conninfo

from zodan_sql.client.connection import parse_dsn
from zodan_sql.client.redaction import secret_settings
from zodan_sql.errors import caller_error


def connect_by(program: str, dsn: str, option: str, name: str) -> tuple[str, dict[str, str]]:
    """Return the connection string and the environment for a program, which connects as application ``name``.

    Raises ZodanError (ZD001) for a connection string that the program cannot be given safely.
    """
    settings = parse_dsn(dsn, option)
    password = settings.pop("password", None)
    if secret := next((key for key in secret_settings() if key in settings), None):
        raise caller_error(
            f"{option} has {secret}, which {program} can only get where other users of this machine see it",
            f"Put {secret} into a service file, and give service=... in {option}.",
        )
    environment = dict(os.environ)
    if password is not None:
        environment["PGPASSWORD"] = password
    settings.setdefault("application_name", name)
    return make_conninfo(**settings), environment
