#!/bin/sh
# Publish a version into a bucket with nothing but the aws command line, sha256sum and python3 (to carry JSON along):
# registry_layout.md §8.4 (publish in place) and §8.3 (append), by 'aws s3api put-object --if-none-match'.
#
#   publish-s3.sh s3://BUCKET/PREFIX MODEL VERSION WRAPPER INPUT_TYPE FILE…
#
# The server, the region and the credentials are those of the aws command. Running it again goes on where it broke off.
# Exit codes: 2 wrong usage, 3 no registry there, 4 the version name is taken by other content.
set -eu
export LC_ALL=C
# Servers other than AWS may not know the checksums that newer releases of aws send with every request.
export AWS_REQUEST_CHECKSUM_CALCULATION="${AWS_REQUEST_CHECKSUM_CALCULATION:-when_required}"
[ $# -ge 6 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2 && exit 2; }
url=${1%/} model=$2 version=$3 wrapper=$4 input_type=$5
shift 5
bucket=${url#s3://} bucket=${bucket%%/*}
prefix=${url#s3://"$bucket"} prefix=${prefix#/} prefix=${prefix:+$prefix/}
actor=${USER:-$(id -un)}@$(uname -n)
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

random() { od -An -N16 -tx1 /dev/urandom | tr -d ' \n'; }
now() { date -u +%Y-%m-%dT%H:%M:%S.%3NZ; }
digest() { sha256sum <"$1" | cut -d' ' -f1; }
fail() { echo "$2" >&2 && exit "$1"; }

read_key() { # key → file; fails when it is absent
    aws s3api get-object --bucket "$bucket" --key "$prefix$1" "$2" >/dev/null 2>"$place/error" && return
    grep -q NoSuchKey "$place/error" && return 1
    # aws cannot tell what a server said that sends no text with its error (Ceph): the answer to a HEAD has none at all.
    aws s3api head-object --bucket "$bucket" --key "$prefix$1" >/dev/null 2>"$place/error" && exit 1
    grep -qF '(404)' "$place/error" && return 1
    cat "$place/error" >&2 && exit 1
}
create() { # key, file: unless the name is taken. What the answer was does not matter: what is there is looked at.
    aws s3api put-object --bucket "$bucket" --key "$prefix$1" --body "$2" --if-none-match '*' >/dev/null 2>"$place/answer" ||
        true
}
absent() { cat "$place/answer" >&2 && fail 1 "$1 is not there after it was written; run it again"; }
delete() { aws s3api delete-object --bucket "$bucket" --key "$prefix$1" >/dev/null; }

for name in "$model" "$version"; do # §5
    case $name in '' | [!a-z0-9]* | *[!a-z0-9._-]* | *[!a-z0-9] | *..*) fail 2 "bad name: $name" ;; esac
    case ${name%%.*} in con | prn | aux | nul | com[0-9] | lpt[0-9]) fail 2 "bad name: $name" ;; esac
    [ ${#name} -le 63 ] || fail 2 "bad name: $name"
done
for file; do
    case ${file##*/} in
    *[!A-Za-z0-9._-]* | .* | manifest.json | tombstone.json | READY | _SUCCESS)
        fail 2 "$file: choose a plain name that the registry does not use itself" ;;
    esac
done
read_key registry.json "$place/registry.json" || fail 3 "$url is no registry: it has no registry.json"
registry_id=$(python3 - "$place/registry.json" <<'PYTHON'
import json, sys
registry = json.load(open(sys.argv[1]))
if registry["schema"] != "clipperfs.registry.v1" or registry.get("required_features"):
    sys.exit("this registry needs a newer publisher")
print(registry["registry_id"])
PYTHON
)

# The manifest, with and without who and when: what remains says whether two publishers mean the same.
entries=
for file; do
    entries="$entries${entries:+,
    }{\"path\": \"${file##*/}\", \"size\": $(wc -c <"$file" | tr -d ' '), \"sha256\": \"$(digest "$file")\"}"
done
manifest() { # created, created_by
    cat <<MANIFEST
{
  "schema": "clipperfs.manifest.v1",
  "created": "$1",
  "created_by": "$2",
  "files": [
    $entries
  ],
  "settings": {"wrapper": {"kind": "$wrapper"}, "input_type": "$input_type"}
}
MANIFEST
}
is_ours() { # a stored manifest lists the same files and settings
    manifest "" "" >"$place/ours"
    sed -e 's/^  "created": ".*",$/  "created": "",/' -e 's/^  "created_by": ".*",$/  "created_by": "",/' "$1" |
        cmp -s - "$place/ours"
}

# §8.4 step 3: claim the content, upload the files in any order, create the manifest, take the claim away.
folder=models/$model/versions/$version
if read_key "$folder/tombstone.json" "$place/tombstone.json"; then
    fail 4 "$model/$version was deleted; names are not used twice"
fi
if ! read_key "$folder/manifest.json" "$place/manifest.json"; then
    manifest "" "" >"$place/content"
    content=$(digest "$place/content")
    printf '{"content": "%s", "actor": "%s", "time": "%s"}\n' "$content" "$actor" "$(now)" >"$place/claim"
    create "$folder/.claim-publishing" "$place/claim"
    read_key "$folder/.claim-publishing" "$place/claimed" || absent "the claim"
    grep -q "$content" "$place/claimed" || fail 4 "somebody else is publishing other files as $model/$version"
    for file; do
        aws s3 cp --only-show-errors "$file" "s3://$bucket/$prefix$folder/${file##*/}"
    done
    manifest "$(now)" "$actor" >"$place/new"
    create "$folder/manifest.json" "$place/new"
    read_key "$folder/manifest.json" "$place/manifest.json" || absent "the manifest"
    delete "$folder/.claim-publishing"
fi
is_ours "$place/manifest.json" || fail 4 "$model/$version is there with other content; take another version name"
manifest_digest=$(digest "$place/manifest.json")

# §8.3: append the record that the version exists, after the newest one. Slots are dense: their count is its number.
log=models/$model/log
slot() { printf '%s/%020d.json' "$log" "$1"; }
while :; do
    head=$(aws s3api list-objects-v2 --bucket "$bucket" --prefix "$prefix$log/" --query 'Contents[].Key' --output text |
        tr '\t' '\n' | grep -cE '/[0-9]{20}\.json$' || true)
    seq=1
    while [ "$seq" -le "$head" ]; do # §8.4 step 5: an earlier run may have recorded it
        [ -e "$place/$seq" ] || read_key "$(slot "$seq")" "$place/$seq"
        seq=$((seq + 1))
    done
    nonce=$(random)
    python3 - "$place" "$head" "$registry_id" "$model" "$version" "$manifest_digest" "$nonce" "$(now)" "$actor" \
        >"$place/record" <<'PYTHON'
import hashlib, json, sys
place, head, registry_id, model, version, manifest, nonce, time, actor = sys.argv[1:]
records = [open(f"{place}/{seq}", "rb").read() for seq in range(1, int(head) + 1)]
for record in map(json.loads, records):
    if record["op"] in ("publish", "adopt") and record["evidence"].get("version") == version:
        if record["evidence"].get("manifest") != manifest:
            sys.exit(f"record {record['seq']} names other content for this version")
        sys.exit(0)  # recorded already: nothing to do
newest = json.loads(records[-1]) if records else {"state": {}}
if newest.get("requires"):
    sys.exit("this registry needs a newer publisher")
prev = hashlib.sha256(records[-1]).hexdigest() if records else "0" * 64
evidence = {"version": version, "manifest": manifest}
print(json.dumps({
    "schema": "clipperfs.record.v1", "registry_id": registry_id, "model": model, "seq": len(records) + 1, "prev": prev,
    "nonce": nonce, "time": time, "actor": actor, "op": "publish", "evidence": evidence, "state": newest["state"],
}, ensure_ascii=False))
PYTHON
    [ -s "$place/record" ] || { echo "$model/$version is recorded already" && exit 0; }
    create "$(slot "$seq")" "$place/record"
    if read_key "$(slot "$seq")" "$place/$seq" && cmp -s "$place/$seq" "$place/record"; then break; fi
    [ -e "$place/$seq" ] || absent "record $seq"
done # somebody else was first: look again

# Step 6, best effort: the copy for people, and the hint that wakes the followers.
aws s3api put-object --bucket "$bucket" --key "${prefix}models/$model/active.json" --body "$place/record" >/dev/null || true
printf '{"kind": "model", "name": "%s", "seq": %s}\n' "$model" "$seq" >"$place/hint"
create "changes/$(date +%s%3N)-$(random)" "$place/hint" || true
echo "published $model/$version as record $seq"
