"""A person has seen to what a fleet's servers refused: the alerts about it go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msb_cache.errors import ImageNotFoundError
from msb_cache.fleet.admission import administering, as_owner, check_owner
from msb_cache.fleet.hosts import KnownLog, is_beginning
from msb_cache.fleet.place import SCHEMA
from msb_cache.fleet.standing import ALERT, Alert
from msb_cache.oci.digest import shown


def chosen(alerts: Iterable[Alert], logs: Iterable[KnownLog], names: Sequence[str]) -> list[Alert]:
    """Return the alerts that names mean: a host's, a role, or a log's id or its beginning; none: all.

    An alert may be of a log that the fleet does not have, so the role that sent it names it, too.

    Raises:
        ImageNotFoundError: nothing was refused of what a name means.
    """
    everything, hosts = [*alerts], {log.log_id: log.host for log in logs}
    found: dict[Alert, None] = {}
    for name in names:
        means = [
            alert
            for alert in everything
            if name in (alert.role, hosts.get(alert.log_id)) or is_beginning(name, alert.log_id)
        ]
        if not means:
            raise ImageNotFoundError(
                f"nothing was refused of {shown(name[:100])}; "
                "`msb-cache fleet hosts` shows of whom something was"
            )
        found |= dict.fromkeys(means)
    return everything if not names else [alert for alert in everything if alert in found]


def acknowledge(dsn: str, alerts: Sequence[Alert]) -> list[Alert]:
    """Take alerts from a server; return those that were still as they were seen.

    One of which more was refused since then stays.

    Raises:
        FleetError: the server cannot be asked, has no fleet, or the DSN's role may not do it.
    """
    with administering(dsn) as connection:
        check_owner(connection)
        with as_owner(connection), connection.cursor() as cursor:
            gone: list[Alert] = []
            for alert in alerts:
                cursor.execute(
                    f"DELETE FROM {SCHEMA}.alert WHERE role = %s AND log_id = %s AND kind = %s "
                    f"AND times = %s RETURNING {ALERT}".encode(),
                    (alert.role, alert.log_id, alert.kind, alert.times),
                )
                gone += [Alert(*row) for row in cursor.fetchall()]
    return gone
