"""`ponita search`: networks of a space of sizes, by accuracy and latency."""
