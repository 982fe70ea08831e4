#!/bin/sh
# A CI job: train the model of this commit, publish it as a version, and make it the active one.
#
#   CLIPPERFS_REGISTRY   the registry: a folder or a URL
#   MODEL                the model's name (default: digits)
#   VERSION              the version's name (default: the commit's hash)
#   DAEMONS              how many daemons must serve it before the job ends (default: do not wait)
#
# Ends with 0: it is active; 4: somebody moved the model meanwhile; 6: a hook refused it; others are in docs/cli.md.
# Safe to run again at any time, also after a crash: what has been done is not done twice.
set -eu
: "${CLIPPERFS_REGISTRY:?say which registry}"
cd "$(dirname "$0")"
model=${MODEL:-digits}
version=${VERSION:-$(git rev-parse --short=12 HEAD)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# field NAME.NAME FILE prints one field of a JSON document, as does: jq -r '.NAME.NAME // ""' FILE
field() {
    python -c 'import functools, json, sys
print(functools.reduce(lambda tree, name: tree[name] if tree else "", sys.argv[1].split("."), json.load(open(sys.argv[2]))))' "$@"
}

# 1. Look before the long part begins: is the registry there at all, and where does the model stand?
clipperfs app list >"$work/apps"
seen=
status=0
clipperfs show "$model" --json >"$work/model" 2>"$work/error" || status=$?
case $status in
0) seen=$(field record.seq "$work/model") ;;
3) echo "$model is not there yet: this job makes its first version" ;;
*) cat "$work/error" >&2 && exit "$status" ;;
esac
seen=${seen:-0}

# 2. Train and publish, unless an earlier run of this job has done so: versions are immutable.
state=
if clipperfs show "$model/$version" --json >"$work/version" 2>"$work/error"; then
    state=$(field state "$work/version")
fi
if [ "$state" = complete ]; then
    echo "$model/$version is published already"
else
    python train.py "$work/out"
    clipperfs publish "$model" "$version" "$work/out" --reason "commit $version" --json >"$work/published"
    # Publishing is a record too. With a number that is not the next one, others wrote records since step 1.
    record=$(field record.seq "$work/published")
    echo "published $model/$version, record $record"
    [ "$record" -ne $((seen + 1)) ] || seen=$record
fi

# 3. Activate, if the model still stands where this job saw it: another job, or a rollback at 3 a.m., is not overruled.
status=0
clipperfs activate "$model" "$version" --expect-seq "$seen" --reason "commit $version" \
    ${DAEMONS:+--wait "$DAEMONS"} || status=$?
case $status in
0) echo "$model/$version is active" ;;
4) echo "$model moved while this job ran: see 'clipperfs history $model', and run the job again to insist" >&2 ;;
6) echo "$model/$version stays published but inactive; what answered before still answers" >&2 ;;
esac
exit "$status"
