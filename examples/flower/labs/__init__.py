"""A potential that labs train together: what a lab does, and what the server does."""
