#!/bin/sh
# Puts etcd and kube-apiserver into DIR, for KUBEBUILDER_ASSETS (docs/operations.md): etcd 3.5 as Debian 13 packages it, and
# kube-apiserver built of Debian 12's source package of Kubernetes 1.20.2, the last that holds more than kubectl, with the
# Go 1.15 of Debian 11 that it was made for (built with Go 1.19 it refuses "", 0 and false in custom resources as null).
# With a second argument, "newer", also the apiextensions-apiserver of the Kubernetes whose libraries Debian sid packages.
#
#     deploy/real-api-server.sh DIR [newer]
#
# Needs apt, Debian's archive keyring and 5 GB for a while; takes ten minutes on two idle cores. Nothing is installed, and
# the machine's own package sources stay as they are.
set -eu
dir=${1:?"usage: real-api-server.sh DIR [newer]"}
newer=${2:-}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# The mirror that this machine uses, asked for these suites whatever the machine runs.
mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep '/debian/*$' | head -n 1)
mkdir -p parts lists/partial cache/archives/partial
cat > parts/debian.sources <<END
Types: deb deb-src
URIs: $mirror
Suites: bullseye bookworm trixie${newer:+ sid}
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
END
: > status
cat > apt.conf <<END
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$work/parts";
Dir::State::lists "$work/lists";
Dir::State::status "$work/status";
Dir::Cache "$work/cache";
APT::Sandbox::User "";
END
export APT_CONFIG="$work/apt.conf"
apt-get update -q
export GO111MODULE=off GOPROXY=off GOTOOLCHAIN=local CGO_ENABLED=0 GOCACHE="$work/gocache"

apt-get download -q etcd-server/trixie golang-1.15-go/bullseye golang-1.15-src/bullseye
apt-get source -q --download-only kubernetes/bookworm
for package in *.deb; do dpkg-deb -x "$package" root; done
source=gopath/src/k8s.io/kubernetes
mkdir -p "$source"
tar xzf kubernetes_*.orig.tar.gz -C "$source" --strip-components=1
(
    cd "$source"
    export GOROOT="$work/root/usr/lib/go-1.15" GOPATH="$work/gopath"
    # The one generated file that the source comes without, as build/root/Makefile.generated_files makes it.
    described=$(grep -lrE --include='*.go' '\+k8s:openapi-gen=' vendor/k8s.io/*/ pkg cmd |
        grep -v -e code-generator -e sample-apiserver -e _test.go -e kube-openapi -e gengo |
        xargs -n1 dirname | sort -u | sed 's,^,k8s.io/kubernetes/,' | paste -sd,)
    nice "$GOROOT/bin/go" run ./vendor/k8s.io/kube-openapi/cmd/openapi-gen -i "$described" -O zz_generated.openapi \
        -p k8s.io/kubernetes/pkg/generated/openapi -h hack/boilerplate/boilerplate.generatego.txt -r "$work/violations"
    version=k8s.io/kubernetes/vendor/k8s.io/component-base/version
    nice "$GOROOT/bin/go" build -o "$work/kube-apiserver" -ldflags \
        "-s -w -X $version.gitVersion=v1.20.2 -X $version.gitMajor=1 -X $version.gitMinor=20" ./cmd/kube-apiserver
)
install root/usr/bin/etcd kube-apiserver "$dir"
"$dir/etcd" --version | head -n 1
"$dir/kube-apiserver" --version
[ -n "$newer" ] || exit 0

library=golang-k8s-apiextensions-apiserver-dev
apt-get install -q -y --download-only --no-install-recommends "$library/sid" golang-go/sid golang-src/sid
for package in cache/archives/golang-*.deb; do dpkg-deb -x "$package" sid; done
(
    export GOPATH="$work/sid/usr/share/gocode"
    cd "$GOPATH/src/k8s.io/apiextensions-apiserver"
    nice "$work/sid/usr/lib/go/bin/go" build -o "$work/apiextensions-apiserver" -ldflags "-s -w" .
)
install apiextensions-apiserver "$dir"
apt-cache policy "$library" | sed -n 's/  Candidate:/apiextensions-apiserver/p'
