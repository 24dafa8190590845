# A static keyway on an empty image, as a user without rights.
#
#     docker build -t keyway .
#     docker run --rm --network host --env-file openstack.env keyway
#
# It listens on loopback: of the host as above, or of the network that other containers share with it
# (--network container:NAME, a pod). The README's "Deployment" has the ways to reach it from elsewhere: a socket
# file on a volume, or a published port with TLS and client certificates.
#
# The build is .ci/build-release, which CI runs outside a container as well.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN .ci/build-release

FROM scratch
COPY --from=build /src/target/image/ /
# The keys of the tokens that clients get, on a volume: without them every client logs in again after a restart.
COPY --from=build --chown=65532:65532 /src/target/image/var/lib/keyway/ /var/lib/keyway/
ENV KEYWAY_FACADE_STATE=/var/lib/keyway
VOLUME /var/lib/keyway
USER 65532:65532
ENTRYPOINT ["/usr/bin/keyway"]
CMD ["serve"]
