# make demo and make test are all there is to set up: see README.md.

GO := $(or $(shell command -v go),$(wildcard /usr/local/go/bin/go),go)
export GO

# One way to compile for all targets: what one has compiled, the next one finds.
export GOFLAGS := $(strip $(GOFLAGS) -trimpath)
export CGO_ENABLED := 0

# A clone that belongs to another user has no version to stamp.
BUILD := $(if $(shell git rev-parse HEAD 2>/dev/null),,-buildvcs=false)

# test/e2e drives the built programs in the lab, which is Linux; everything else is
# quick and compiles anywhere.
PACKAGES = $(shell $(GO) list ./... | grep -v /test/e2e$$)
PLATFORMS := $(foreach os,linux darwin windows,$(os)/amd64 $(os)/arm64)

.DEFAULT_GOAL := help
.NOTPARALLEL: # one thing after the other: some of it is timed
.PHONY: help build demo bench test test-full check vet unit race portable e2e e2e-full fuzz compose-demo compose-test cross clean need-go setup-demo setup-test $(PLATFORMS)

help:
	@echo 'make demo       link two peers behind NATs on this machine, and watch'
	@echo 'make test       what a change has to pass, about 13 minutes'
	@echo 'make test-full  everything: NAT matrix, statistics, long faults, fuzzing; 40 minutes'
	@echo 'make bench      measure this beside others, and write docs/measurements.md; 15 minutes, as root'
	@echo 'make compose-demo  the same in containers: needs only Docker'
	@echo 'make build      bin/p2pagent and bin/signal'
	@echo 'make check      formatting, go vet for three systems, staticcheck'
	@echo 'make cross      both programs for Linux, macOS and Windows into dist/'
	@echo 'make clean      remove bin/, dist/ and out/'

build: need-go
	$(GO) build $(BUILD) -o bin/ ./cmd/...

demo: setup-demo build
	@$(GO) build -o bin/transfer scripts/transfer.go
	@scripts/demo.sh

test: setup-test check unit race portable e2e

test-full: setup-test check unit race portable cross e2e-full fuzz

check: vet
	$(GO) tool staticcheck ./...

# BENCH=-quick is one short round; go doc ./test/bench tells the rest.
bench: setup-test build
	$(GO) build $(BUILD) -o bin/bench ./test/bench
	bin/bench $(BENCH)

vet: need-go
	@files=$$("$$($(GO) env GOROOT)/bin/gofmt" -l .); if [ -n "$$files" ]; then echo "not formatted: $$files" >&2; exit 1; fi
	$(GO) vet ./...
	$(GO) vet scripts/transfer.go
	GOOS=darwin $(GO) vet $(PACKAGES)
	GOOS=windows $(GO) vet $(PACKAGES)

# vet has been done, by check.
unit: need-go
	$(GO) test -vet=off $(PACKAGES)

race: need-go
	CGO_ENABLED=1 $(GO) test -vet=off -race $(PACKAGES)

# The UDP code of the other systems, on this one.
portable: need-go
	scripts/portable.sh

e2e: build
	$(GO) test -vet=off -v -count=1 -timeout 30m ./test/e2e

e2e-full: build
	P2PAGENT_FULL=1 $(GO) test -vet=off -v -count=1 -timeout 4h ./test/e2e

fuzz: need-go
	scripts/fuzz.sh 20

# The lab in containers.
compose-demo:
	@scripts/compose-demo.sh

compose-test: need-go
	P2PAGENT_COMPOSE=1 $(GO) test -vet=off -v -count=1 -timeout 60m -run 'TestCompose' ./test/e2e

cross: $(PLATFORMS)

$(PLATFORMS): need-go
	GOOS=$(@D) GOARCH=$(@F) $(GO) build $(BUILD) -o dist/$(@D)-$(@F)/ ./cmd/...

clean:
	rm -rf bin dist out

need-go:
	@scripts/need-go.sh

setup-demo:
	@scripts/setup.sh demo

setup-test:
	@scripts/setup.sh test
