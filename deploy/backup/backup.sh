#!/bin/sh
# Backs up a deployment beside its calls. Both commands can run at any time.
#
#     backup.sh base DATABASE_URL DIRECTORY   makes a base backup below DIRECTORY, named by its time, and checks it
#     backup.sh keys DATA_DIR DIRECTORY       copies the keys and the journal of signed heads
#
# The user of DATABASE_URL needs the attribute REPLICATION. Keep the keys in another place than the base backups and
# the WAL: the journal (audit.signed) detects that a database is older than what was signed, and the keys decrypt
# what is in the database. PG_BIN is the directory of the programs of PostgreSQL, if they are not in PATH.
set -eu
PATH="${PG_BIN:+$PG_BIN:}$PATH"
[ $# -eq 3 ] || { sed -n 's/^#  *backup/backup/p' "$0" >&2; exit 2; }
command=$1 source=$2 directory=$3
umask 077
mkdir -p "$directory"
case $command in
base)
    backup=$directory/$(date -u +%Y%m%dT%H%M%SZ)
    # With the WAL of the backup itself, so that it can be restored without the archive.
    pg_basebackup --dbname="$source" --pgdata="$backup.part" --checkpoint=fast --wal-method=stream \
        --manifest-checksums=SHA256
    pg_verifybackup --quiet "$backup.part"
    mv "$backup.part" "$backup"
    sync
    echo "$backup"
    ;;
keys)
    for name in secret.key audit.key audit.key.previous audit.keys audit.signed; do
        [ -f "$source/$name" ] || continue
        cp -p "$source/$name" "$directory/$name.part"
        mv "$directory/$name.part" "$directory/$name"
        echo "$directory/$name"
    done
    sync
    ;;
*)
    echo "backup.sh: unknown command $command" >&2
    exit 2
    ;;
esac
