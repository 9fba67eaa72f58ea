"""C++17 kernels for the CPU, called through their C interface."""
