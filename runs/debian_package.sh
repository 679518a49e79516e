# Sourced by the scripts that fetch recordings. Needs a Debian or Ubuntu with apt-get and dpkg, but not root.

# debian_package NAME FOLDER: unpacks a package into FOLDER/unpacked, without installing it. What FOLDER held is gone.
debian_package() {
    for command in apt-get dpkg-deb; do
        if ! command -v "$command" >/dev/null; then
            echo "error: $command not found (expected: Debian or Ubuntu, or recordings of your own: runs/make_filelists.sh)" >&2
            exit 2
        fi
    done
    work=$2
    rm -rf "$work"
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
    # Package lists of our own: those of the system may be missing, and only root may renew them.
    apt() { apt-get -q -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache" -o APT::Sandbox::User= "$@"; }
    apt update >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 2; }
    (cd "$work" && apt download "$1" >>log 2>&1) || { cat "$work/log" >&2; exit 2; }
    dpkg-deb -x "$work/$1"_*.deb "$work/unpacked"
}
