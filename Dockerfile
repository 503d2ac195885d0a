# The images of docker-compose.yml, one target a role:
#
#   signal   the public side                 peer     an agent at home
#   router   a NAT, or the core: iptables    coturn   a foreign relay
#
# Every image starts as root to set its routes (docker/node) and then runs its
# program as the user p2pagent; only a router needs to stay what it is.

FROM golang:1.26-bookworm AS build
# Empty is Go's own default.
ARG GOPROXY
ENV CGO_ENABLED=0 GOFLAGS=-buildvcs=false
WORKDIR /src
COPY go.mod go.sum ./
# What others wrote, compiled once: a change of ours is then built in seconds.
RUN go build -trimpath github.com/quic-go/quic-go github.com/pion/ice/v3 github.com/pion/turn/v3 \
	github.com/flynn/noise github.com/gorilla/websocket github.com/spf13/cobra golang.org/x/crypto/acme/autocert
COPY . .
RUN go build -trimpath -o /out/ ./cmd/... && go build -trimpath -o /out/ scripts/transfer.go

FROM debian:bookworm-slim AS node
RUN apt-get update -q \
	&& apt-get install -q -y --no-install-recommends iproute2 \
	&& rm -rf /var/lib/apt/lists/* \
	&& useradd --system --uid 10001 --user-group --create-home p2pagent \
	&& install -d -m 0700 -o p2pagent -g p2pagent /run/p2pagent
ENV XDG_RUNTIME_DIR=/run/p2pagent
COPY docker/node /usr/local/bin/
ENTRYPOINT ["node"]

FROM node AS signal
COPY --from=build /out/signal /usr/local/bin/
COPY docker/rendezvous docker/stats /usr/local/bin/
CMD ["rendezvous"]

FROM node AS peer
COPY --from=build /out/p2pagent /out/transfer /usr/local/bin/
COPY docker/peer-a docker/peer-b docker/prove-nat docker/fetch /usr/local/bin/

FROM node AS router
RUN apt-get update -q \
	&& apt-get install -q -y --no-install-recommends iptables nftables conntrack \
	&& rm -rf /var/lib/apt/lists/*
COPY --from=build /out/p2pagent /usr/local/bin/
COPY docker/router docker/core /usr/local/bin/
ENV KEEP_ROOT=1
CMD ["router"]

FROM node AS coturn
RUN apt-get update -q \
	&& apt-get install -q -y --no-install-recommends coturn \
	&& rm -rf /var/lib/apt/lists/*
COPY docker/coturn /usr/local/lib/p2pagent/
CMD ["/usr/local/lib/p2pagent/coturn"]
