"""Runs inside the sandbox, as a file: reference query and candidate on one database, which neither may change."""

import json
import sqlite3
import sys

BROKEN_TRUTH = 3
ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
MOST_ROWS = 100_000


def main() -> None:
    order = json.loads(sys.stdin.read())
    if order["database"]:
        base = sqlite3.connect(f"file:{order['database']}?mode=ro&immutable=1", uri=True)
    else:
        base = sqlite3.connect(":memory:")
        base.executescript(order["schema"])
        base.commit()
    base.set_authorizer(only_reading)
    try:
        expected = rows(base, order["truth"])
    except sqlite3.Error as e:
        print(e, file=sys.stderr)
        sys.exit(BROKEN_TRUTH)
    found = rows(base, order["query"])
    if not order["ordered"]:
        expected, found = sorted(expected, key=repr), sorted(found, key=repr)
    print("equal" if expected == found else "different")


def only_reading(action: int, first: str | None, second: str | None, *_: object) -> int:
    if action == sqlite3.SQLITE_FUNCTION and second == "load_extension":
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK if action in ALLOWED else sqlite3.SQLITE_DENY


def rows(base: sqlite3.Connection, query: str) -> list[tuple]:
    found = base.execute(query).fetchmany(MOST_ROWS + 1)
    if len(found) > MOST_ROWS:
        raise MemoryError(f"more than {MOST_ROWS} rows")
    return [tuple(comparable(value) for value in row) for row in found]


def comparable(value: object) -> object:
    """Numbers that are equal as numbers become one number."""
    if isinstance(value, float):
        value = round(value, 6)
        return int(value) if value.is_integer() else value
    return value


if __name__ == "__main__":
    main()
