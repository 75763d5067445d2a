#!/bin/sh
# Puts etcd and kube-apiserver into DIR, for KUBEBUILDER_ASSETS (docs/operations.md): etcd 3.5 as Debian 13 packages it, and
# kube-apiserver built of Debian 11's source package of Kubernetes 1.20.2, the last that holds more than kubectl, with the
# Go 1.15 that it was made for. (Built with Go 1.19 it refuses "", 0 and false in custom resources as null.)
# Needs apt, Debian's archive keyring and 4 GB; takes ten minutes on two idle cores. Nothing is installed, and the
# machine's own package sources stay as they are.
set -eu
dir=${1:?"usage: real-api-server.sh DIR"}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# The mirror that this machine uses, asked for these two whatever the machine runs.
mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep '/debian/*$' | head -n 1)
mkdir -p parts lists/partial cache/archives/partial
cat > parts/debian.sources <<END
Types: deb deb-src
URIs: $mirror
Suites: bullseye trixie
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
END
cat > apt.conf <<END
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$work/parts";
Dir::State::lists "$work/lists";
Dir::Cache "$work/cache";
APT::Sandbox::User "";
END
export APT_CONFIG="$work/apt.conf"
apt-get update -q
apt-get download -q etcd-server/trixie golang-1.15-go golang-1.15-src
apt-get source -q --download-only kubernetes/bullseye
for package in *.deb; do dpkg-deb -x "$package" root; done

source=gopath/src/k8s.io/kubernetes
mkdir -p "$source"
tar xzf kubernetes_*.orig.tar.gz -C "$source" --strip-components=1
cd "$source"
export GOROOT="$work/root/usr/lib/go-1.15" GOPATH="$work/gopath" GOCACHE="$work/gocache"
export GO111MODULE=off GOPROXY=off CGO_ENABLED=0
# The one generated file that the source does not come with: as build/root/Makefile.generated_files makes it.
described=$(grep -lrE --include='*.go' '\+k8s:openapi-gen=' vendor/k8s.io/*/ pkg cmd |
    grep -v -e code-generator -e sample-apiserver -e _test.go -e kube-openapi -e gengo |
    xargs -n1 dirname | sort -u | sed 's,^,k8s.io/kubernetes/,' | paste -sd,)
nice "$GOROOT/bin/go" run ./vendor/k8s.io/kube-openapi/cmd/openapi-gen -i "$described" -O zz_generated.openapi \
    -p k8s.io/kubernetes/pkg/generated/openapi -h hack/boilerplate/boilerplate.generatego.txt -r "$work/violations"
version=k8s.io/kubernetes/vendor/k8s.io/component-base/version
nice "$GOROOT/bin/go" build -o "$work/kube-apiserver" -ldflags \
    "-s -w -X $version.gitVersion=v1.20.2 -X $version.gitMajor=1 -X $version.gitMinor=20" ./cmd/kube-apiserver
cd "$work"
install root/usr/bin/etcd kube-apiserver "$dir"
"$dir/etcd" --version | head -n 1
"$dir/kube-apiserver" --version
