#!/usr/bin/env bash
# Starts a command; for "postgres", prepares the data folder first. The variables
# are those of the official image:
#
#     POSTGRES_PASSWORD          required, unless the method below is trust
#     POSTGRES_USER              the superuser (default postgres)
#     POSTGRES_DB                created at the first start (default: the user's name)
#     POSTGRES_INITDB_ARGS       more arguments for initdb
#     POSTGRES_INITDB_WALDIR     a folder of its own for the WAL
#     POSTGRES_HOST_AUTH_METHOD  for TCP (default scram-sha-256)
#     PGDATA                     the data folder
#
# Each POSTGRES_* but the method may be given as a file's name in POSTGRES_*_FILE.
set -euo pipefail
shopt -s nullglob

sockets=/var/run/postgresql
scripts=/docker-entrypoint-initdb.d

die() { printf 'entrypoint: %s\n' "$*" >&2; exit 1; }
say() { printf 'entrypoint: %s\n' "$*"; }

# setting NAME DEFAULT sets NAME from itself, NAME_FILE or the default.
setting() {
	local name=$1 file=$1_FILE
	[[ -z ${!name:-} || -z ${!file:-} ]] || die "$name and $file are both set"
	if [[ -n ${!file:-} ]]; then
		printf -v "$name" %s "$(<"${!file}")"
	else
		printf -v "$name" %s "${!name:-$2}"
	fi
	unset "$file"
}

settings() {
	setting POSTGRES_PASSWORD ''
	setting POSTGRES_USER postgres
	setting POSTGRES_DB "$POSTGRES_USER"
	setting POSTGRES_INITDB_ARGS ''
	setting POSTGRES_INITDB_WALDIR ''
	POSTGRES_HOST_AUTH_METHOD=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}
	export POSTGRES_USER POSTGRES_DB
	[[ -n $POSTGRES_PASSWORD || $POSTGRES_HOST_AUTH_METHOD == trust ]] ||
		die "set POSTGRES_PASSWORD, or POSTGRES_HOST_AUTH_METHOD=trust to let anyone in"
}

# own_folders gives postgres the folders that may have been mounted. Read-only
# ones are the user's business.
own_folders() {
	mkdir -p "$PGDATA" "$sockets"
	chmod 0700 "$PGDATA" || true
	chmod 3777 "$sockets" || true
	find "$PGDATA" ! -user postgres -exec chown postgres:postgres {} + || true
	chown postgres:postgres "$sockets" || true
	if [[ -n ${POSTGRES_INITDB_WALDIR:-} ]]; then
		mkdir -p "$POSTGRES_INITDB_WALDIR"
		chown -R postgres:postgres "$POSTGRES_INITDB_WALDIR"
		chmod 0700 "$POSTGRES_INITDB_WALDIR"
	fi
}

init() {
	local args=()
	# Quoted arguments in one variable are part of the contract, hence eval.
	eval "args=($POSTGRES_INITDB_ARGS)"
	[[ -z $POSTGRES_INITDB_WALDIR ]] || args+=("--waldir=$POSTGRES_INITDB_WALDIR")
	if [[ -n $POSTGRES_PASSWORD ]]; then
		initdb --username="$POSTGRES_USER" "${args[@]}" \
			--pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD")
	else
		initdb --username="$POSTGRES_USER" "${args[@]}"
	fi
	printf '\nhost all all all %s\n' "$POSTGRES_HOST_AUTH_METHOD" >>"$PGDATA/pg_hba.conf"
	printf "\nlisten_addresses = '*'\n" >>"$PGDATA/postgresql.conf"
}

# first_start runs the scripts against a server that nobody else can reach, so
# that a client never takes it for the real one. The scripts find it by PGHOST.
first_start() {
	local private
	private=$(mktemp -d)
	pg_ctl -w start -o "$(printf '%q ' "${@:2}" \
		-c listen_addresses= -c "unix_socket_directories=$private" -p 5432)"
	export PGHOST=$private PGPORT=5432 PGUSER=$POSTGRES_USER
	[[ -z $POSTGRES_PASSWORD ]] || export PGPASSWORD=$POSTGRES_PASSWORD
	if [[ $POSTGRES_DB != postgres ]]; then
		createdb --no-password --maintenance-db=postgres -- "$POSTGRES_DB"
	fi
	export PGDATABASE=$POSTGRES_DB
	run_scripts
	unset PGHOST PGPORT PGUSER PGDATABASE PGPASSWORD
	pg_ctl -m fast -w stop
	rm -rf -- "$private"
}

run_scripts() {
	local f
	for f in "$scripts"/*; do
		say "running $f"
		case $f in
		*.sh) if [[ -x $f ]]; then "$f"; else bash "$f"; fi ;;
		*.sql) psql -v ON_ERROR_STOP=1 --no-password --no-psqlrc -f "$f" ;;
		*.sql.gz) gunzip -c "$f" | psql -v ON_ERROR_STOP=1 --no-password --no-psqlrc ;;
		*) say "ignored $f" ;;
		esac
	done
}

if [[ $# == 0 || $1 == -* ]]; then
	set -- postgres "$@"
fi

# A shell is no server: it goes the moment it is asked to.
trap 'exit 130' INT TERM

if [[ $1 == postgres ]]; then
	if [[ $EUID == 0 ]]; then
		own_folders
		exec setpriv --reuid=postgres --regid=postgres --init-groups -- \
			env HOME=/var/lib/postgresql "${BASH_SOURCE[0]}" "$@"
	fi
	if [[ ! -s $PGDATA/PG_VERSION ]]; then
		settings
		mkdir -p "$PGDATA"
		init
		first_start "$@"
		say "ready for the first start"
	fi
	unset POSTGRES_PASSWORD
fi

exec "$@"
