#!/bin/sh
# Prepares a data directory of PostgreSQL from a base backup and archived WAL. The next start of the server recovers
# it, and accepts connections once that is done.
#
#     restore.sh BACKUP PGDATA TIME WAL_DIRECTORY...
#
# BACKUP         base backup of backup.sh
# PGDATA         data directory, which must not exist
# TIME           `latest`, or the time to which the database returns, for example `2026-11-27 15:04:05+00`
# WAL_DIRECTORY  archives of archive-wal.sh and directories of pg_receivewal, which are searched in this order
#
# Run it as the system user of the server, or as root with PG_OWNER set to that user.
set -eu
PATH="${PG_BIN:+$PG_BIN:}$PATH"
[ $# -ge 4 ] || { sed -n 's/^#  *restore/restore/p' "$0" >&2; exit 2; }
backup=$1 data=$2 time=$3
shift 3
[ ! -e "$data" ] || { echo "restore.sh: $data exists; move it away first" >&2; exit 1; }
pg_verifybackup --quiet "$backup"
umask 077
cp -R "$backup" "$data.part"

# A complete segment first; the last one of pg_receivewal has the suffix .partial.
commands=
for directory in "$@"; do
    commands="${commands}cp \"$directory/%f\" \"%p\" 2>/dev/null || "
done
for directory in "$@"; do
    commands="${commands}cp \"$directory/%f.partial\" \"%p\" 2>/dev/null || "
done
{
    echo "restore_command = '${commands% || }'"
    # No connection until the recovery has ended: the suite must not see a state in between.
    echo "hot_standby = off"
    # Otherwise each commit would wait for the receiver of the lost server.
    echo "synchronous_standby_names = ''"
    if [ "$time" != latest ]; then
        echo "recovery_target_time = '$time'"
        echo "recovery_target_action = promote"
    fi
} >>"$data.part/postgresql.auto.conf"
touch "$data.part/recovery.signal"
if [ -n "${PG_OWNER:-}" ]; then
    chown -R "$PG_OWNER" "$data.part"
fi
mv "$data.part" "$data"
echo "restored $backup to $time; start the server with $data"
