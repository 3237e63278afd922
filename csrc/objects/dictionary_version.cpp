#include "objects/dictionary_version.h"

#if PY_VERSION_HEX >= 0x030C0000

#include "objects/python_guards.h"

namespace fastfake {

namespace {

uint64_t changes = 0;

int count_change(PyDict_WatchEvent /*event*/, PyObject* /*dict*/, PyObject* /*key*/, PyObject* /*value*/) {
  ++changes;
  return 0;
}

}  // namespace

uint64_t mark_of(PyObject* dictionary) {
  static const int watcher = [] {
    const int added = PyDict_AddWatcher(count_change);
    if (added < 0) throw python_error();
    return added;
  }();
  // Which marks the dictionary, and does nothing more the next time.
  if (PyDict_Watch(watcher, dictionary) != 0) throw python_error();
  return changes;
}

}  // namespace fastfake

#endif
