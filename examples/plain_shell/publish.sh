#!/bin/sh
# Publish a version with nothing but mkdir, cp, sha256sum and ln: for a machine on which clipperfs is not installed.
#
#   publish.sh REGISTRY MODEL VERSION WRAPPER INPUT_TYPE FILE…
#
# REGISTRY is a mounted folder. What is written here is a plain copy with its manifest; a daemon adopts it, or
# 'clipperfs seal MODEL VERSION' does. (registry_layout.md §8.15 goes one step further and writes the record, too.)
set -eu
[ $# -ge 6 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2 && exit 2; }
registry=$1 model=$2 version=$3 wrapper=$4 input_type=$5
shift 5
[ -f "$registry/registry.json" ] || { echo "$registry is no registry: it has no registry.json" >&2 && exit 3; }
for file; do
    case ${file##*/} in
    *[!A-Za-z0-9._-]* | manifest.json | tombstone.json | READY | _SUCCESS)
        echo "$file: choose a plain name that the registry does not use itself" >&2 && exit 2 ;;
    esac
done

# Versions are immutable, so their folder is claimed: mkdir without -p succeeds for one of any number of publishers.
folder=$registry/models/$model/versions/$version
mkdir -p "${folder%/*}"
mkdir "$folder" || { echo "take another version name, or remove $folder if a copy of yours broke off there" >&2 && exit 4; }

# The files first, in any order. Without its manifest the version is "incoming", and nobody serves it.
cp "$@" "$folder/"

# The manifest lists what was copied, read back from where it now lies.
entries=
for file; do
    name=${file##*/}
    size=$(wc -c <"$folder/$name" | tr -d ' ')
    digest=$(sha256sum "$folder/$name") digest=${digest%% *}
    entries="$entries${entries:+,
    }{\"path\": \"$name\", \"size\": $size, \"sha256\": \"$digest\"}"
done
claim=$folder/.claim-$$
cat >"$claim" <<MANIFEST
{
  "schema": "clipperfs.manifest.v1",
  "created": "$(date -u +%Y-%m-%dT%H:%M:%S.000Z)",
  "created_by": "${USER:-$(id -un)}@$(uname -n)",
  "files": [
    $entries
  ],
  "settings": {"wrapper": {"kind": "$wrapper"}, "input_type": "$input_type"}
}
MANIFEST
sync # the files are on the disk before the manifest says that they are

# A link makes the whole manifest appear at once, and never replaces one that is there.
ln "$claim" "$folder/manifest.json"
rm "$claim"
echo "$model/$version is complete: $# files"
