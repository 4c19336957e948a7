"""History from the venue's archives: objects that lie in a real S3 server, in the venue's layouts."""
