"""`wherry-runtime`, the stand-alone OCI runtime: runc's command line. Nothing here is loaded beside containers."""
