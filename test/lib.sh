# shellcheck shell=bash
# What test/run and the like share: a server under test, of their own. Source it, then call prepare "$@".
#
# The server under test is a private copy. PostgreSQL finds its libraries and shared files relative to its own
# programs, so copied programs beside linked files make an installation below BUILD/pg that is ready in a tenth of a
# second. The extension is installed into that: it takes no rights, the system's PostgreSQL stays as it is, and
# concurrent runs never meet. Clusters listen on sockets in folders of their own, and all have test/postgresql.conf.
#
# PostgreSQL does not run as root. Root hands over to the user postgres, who owns only BUILD; where that user cannot
# read the source tree (a clone below /root), a copy in /tmp is tested instead.
#
# PG_CONFIG and BUILD as in test/run. Afterwards root and build are absolute paths, PG_CONFIG and PATH lead to the copy.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
script=$(realpath --relative-to="$root" "$0")
build=$(realpath -m "${BUILD:-$root/build}")
export BUILD=$build

die() {
  echo "$script: $*" >&2
  exit 1
}

# ----------------------------------------------------------------------------------------------------------------
# Before anything runs
# ----------------------------------------------------------------------------------------------------------------

find_server() {
  local newest
  newest=$(find /usr/lib/postgresql -path '*/bin/postgres' 2>/dev/null | sort -V | tail -n 1)
  [ -z "$newest" ] || : "${PG_CONFIG:=$(dirname "$newest")/pg_config}"
  PG_CONFIG=$(command -v "${PG_CONFIG:-pg_config}") || die "no pg_config; set PG_CONFIG"
  # Debian's /usr/bin/pg_config stands for the one beside the server.
  PG_CONFIG=$("$PG_CONFIG" --bindir)/pg_config
  export PG_CONFIG
}

# Root only: run this script again as postgres.
hand_over() {
  local status=0 copy=
  if ! runuser -u postgres -- test -r "$root/$script"; then
    copy=$(mktemp -d /tmp/mailchimp_sync.XXXXXX)
    tar -C "$root" --exclude=./.git --exclude='./build*' -cf - . | tar -C "$copy" -xf -
    root=$copy build=$copy/build
  fi
  mkdir -p "$build"
  chown -R postgres: "$build" ${copy:+"$copy"}
  cd "$root" || exit
  runuser -u postgres -- env BUILD="$build" TREE_COPY="$copy" PG_CONFIG="$PG_CONFIG" "$root/$script" "$@" </dev/null || status=$?
  # A demo that is kept lives in it, and removes it.
  [ -z "$copy" ] || [ -e "$build/demo.keeper" ] || rm -rf "$copy"
  exit "$status"
}

# One run at a time in a build folder. The lock's descriptor is closed for all that a suite starts: a server that
# was left behind would keep it.
take_build_folder() {
  mkdir -p "$build/log" || die "cannot write to $build; choose another with BUILD=dir"
  exec 8>"$build/.lock"
  flock -n 8 || die "another run uses $build; choose another with BUILD=dir"
}

# What the caller's surroundings say about servers must not reach the tests.
clean_environment() {
  local name
  for name in ${!PG*}; do
    [ "$name" = PG_CONFIG ] || unset "$name"
  done
  # Where npm finds packages is the user's business.
  [ ! -r "$HOME/.npmrc" ] || export npm_config_userconfig=${npm_config_userconfig:-$HOME/.npmrc}
  export HOME=$build LC_ALL=C.UTF-8 TZ=UTC NO_COLOR=1
  unset MAKEFLAGS MAKELEVEL MFLAGS
}

# ----------------------------------------------------------------------------------------------------------------
# The server under test
# ----------------------------------------------------------------------------------------------------------------

private_server() {
  local dir
  rm -rf "$build/pg"
  for dir in pkglibdir sharedir; do
    dir=$("$PG_CONFIG" --$dir)
    mkdir -p "$build/pg$dir"
    cp -as "$dir/." "$build/pg$dir/"
  done
  dir=$("$PG_CONFIG" --bindir)
  mkdir -p "$build/pg$dir"
  cp -a "$dir/." "$build/pg$dir/"
  dir=$("$PG_CONFIG" --includedir)
  mkdir -p "$build/pg$(dirname "$dir")"
  ln -sfn "$dir" "$build/pg$dir"
  # A version that is installed in the system must not shine through.
  find "$build/pg" -name 'mailchimp_sync*' -delete
  PG_CONFIG=$build/pg$("$PG_CONFIG" --bindir)/pg_config
  export PG_CONFIG PATH="${PG_CONFIG%/*}:$PATH"
}

make_extension() { # compiler target...
  local folder=$build/$1
  mkdir -p "$folder"
  make -C "$folder" -f "$root/Makefile" --silent --no-print-directory -j2 CC="$1" PG_CONFIG="$PG_CONFIG" WERROR=-Werror "${@:2}"
}

# The suites that need one installed extension share this.
install_extension() {
  make_extension gcc all install >"$build/log/install" 2>&1 || {
    cat "$build/log/install"
    return 1
  }
}

# A cluster for this process, which ends with it.
start_cluster() { # name
  cluster=$build/$1
  # Paths of sockets are limited to about 100 characters.
  socket_dir=$(mktemp -d /tmp/mc.XXXXXX)
  trap stop_cluster EXIT
  trap 'exit 143' TERM
  rm -rf "$cluster" "$build/log/$1.server"
  initdb -D "$cluster" -A trust -N -U postgres -E UTF8 --locale=C >"$build/log/$1.initdb"
  cat "$root/test/postgresql.conf" >>"$cluster/postgresql.conf"
  pg_ctl -D "$cluster" -s -w -l "$build/log/$1.server" -o "-k $socket_dir -c listen_addresses=''" start || {
    cat "$build/log/$1.server"
    return 1
  }
  export PGHOST=$socket_dir PGUSER=postgres
}

stop_cluster() {
  pg_ctl -D "$cluster" -s -m immediate stop >/dev/null 2>&1 || true
  rm -rf "$cluster" "$socket_dir"
}

prepare() { # the script's arguments
  "$root/scripts/setup"
  find_server
  [ "$(id -u)" != 0 ] || hand_over "$@"
  clean_environment
  take_build_folder
  private_server
}
