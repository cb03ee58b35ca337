#!/bin/sh
# Runs an S3 server in one process, with the keys of the secret and a bucket for the runs.
set -eu
secret=/run/secrets/s3-credentials
AWS_ACCESS_KEY_ID=$(sed -n 's/^aws_access_key_id *= *//p' "$secret")
AWS_SECRET_ACCESS_KEY=$(sed -n 's/^aws_secret_access_key *= *//p' "$secret")
export AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
# Its components reach each other at an address that survives recreating the container.
exec weed -logtostderr=true mini -dir=/data -ip=127.0.0.1 -ip.bind=0.0.0.0 -bucket=spectrain \
    -webdav=false -admin.ui=false -s3.port.iceberg=0 -s3.port.lance=0 -master.telemetry=false
