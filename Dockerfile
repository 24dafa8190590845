# A static keyway on an empty image, as a user without rights.
#
#     docker build -t keyway .
#     docker run --rm -p 127.0.0.1:8180:8180 -p 127.0.0.1:8181:8181 --env-file openstack.env keyway
#
# The build is .ci/build-release, which CI runs outside a container as well.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN .ci/build-release

FROM scratch
COPY --from=build /src/target/image/ /
USER 65532:65532
EXPOSE 8180 8181
ENTRYPOINT ["/usr/bin/keyway"]
CMD ["serve", "--listen", "0.0.0.0:8180", "--admin", "0.0.0.0:8181"]
