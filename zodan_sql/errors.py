"""The one exception that the package raises for people, and the exit code of each error."""

from __future__ import annotations

import psycopg

EXIT_DATABASE = 7
EXIT_INTERRUPTED = 130

CONNECTION_FAILED = "08006"
CANCELLED = "57014"

#: Exit code of each error class, by the beginning of the SQLSTATE. Any other SQLSTATE is a database's own error.
EXIT_CODES = {
    "ZD0": 2,
    "ZD1": 3,
    "ZD2": 4,
    "ZD3": 5,
    "ZD4": 6,
    "ZD9": 70,
    # PostgreSQL's own SQLSTATE for what ZD005 says: the call is inside a transaction block.
    "2D000": 2,
    CANCELLED: EXIT_INTERRUPTED,
}


class ZodanError(Exception):
    """An error for the person who called: an SQLSTATE, a message of one line, the facts, and one action."""

    def __init__(self, message: str, *, sqlstate: str, detail: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.sqlstate = sqlstate
        self.detail = detail
        self.hint = hint

    @property
    def exit_code(self) -> int:
        """The exit code: 2 caller's mistake, 3 precondition, 4 remote step, 5 wait, 6 incomplete, 7 database."""
        for beginning, code in EXIT_CODES.items():
            if self.sqlstate.startswith(beginning):
                return code
        return EXIT_DATABASE


def caller_error(message: str, hint: str = "") -> ZodanError:
    """Return an error that only the caller can fix (class ZD0)."""
    return ZodanError(message, sqlstate="ZD001", hint=hint)


def precondition_error(message: str, hint: str = "", detail: str = "") -> ZodanError:
    """Return an error for a database that is not ready for the call (class ZD1)."""
    return ZodanError(message, sqlstate="ZD100", hint=hint, detail=detail)


def from_database(error: psycopg.Error) -> ZodanError:
    """Return the error of a server, or of the connection to it, as a ZodanError. Its texts are not redacted yet."""
    diagnostics = error.diag
    return ZodanError(
        diagnostics.message_primary or str(error).strip() or type(error).__name__,
        sqlstate=error.sqlstate or CONNECTION_FAILED,
        detail=diagnostics.message_detail or "",
        hint=diagnostics.message_hint or "",
    )
