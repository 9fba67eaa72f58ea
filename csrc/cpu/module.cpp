// An empty Python module around the kernels, so that Python's own machinery finds the compiled library.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_cpu", "Compiled CPU kernels; see ponita.csrc.cpu.", -1,
                             nullptr, nullptr, nullptr, nullptr, nullptr};

PyMODINIT_FUNC PyInit__cpu() { return PyModule_Create(&module); }
