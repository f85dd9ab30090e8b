#!/bin/sh
# Copies a WAL segment into the archive, for the setting archive_command of PostgreSQL:
#
#     archive_command = '/etc/tenantry/archive-wal.sh %p /backup/wal/%f'
#
# Succeeds only if the copy is on the disk. A segment that is archived already is not overwritten: it must be the
# same, or another server writes to this archive.
set -eu
[ $# -eq 2 ] || { echo "usage: archive-wal.sh SEGMENT TARGET" >&2; exit 2; }
segment=$1 target=$2
if [ -f "$target" ]; then
    cmp -s "$segment" "$target" && exit 0
    echo "archive-wal.sh: $target exists and differs: does another server use this archive?" >&2
    exit 1
fi
cp "$segment" "$target.part"
sync "$target.part"
mv "$target.part" "$target"
sync "$(dirname "$target")"
