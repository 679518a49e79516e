# Sourced first by other scripts: -h or --help prints what the script says of itself, before anything is installed or done.
case ${1-} in
    -h | --help)
        sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
esac

# no_arguments "$@": ends a script that takes none and was given some.
no_arguments() {
    [ $# -eq 0 ] && return
    echo "error: $(basename "$0"): unknown argument '$1' (expected: none, or --help)" >&2
    exit 2
}
