#include "objects/holding_namespaces.h"

#include <cstdint>
#include <unordered_set>

namespace fastfake {

namespace py = pybind11;

namespace {

class Wanted {
 public:
  Wanted(const py::dict& ids, const py::tuple& types) : types_(types) {
    for (const auto& [id, unused] : ids) ids_.insert(id.cast<uintptr_t>());
  }

  bool is_held_by(PyObject* value) const {
    if (has(value)) return true;
    if (PyTuple_CheckExact(value)) {
      for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(value); ++i) {
        if (has(PyTuple_GET_ITEM(value, i))) return true;
      }
      return false;
    }
    for (size_t i = 0; i < types_.size(); ++i) {
      if (PyTuple_GET_ITEM(types_.ptr(), static_cast<Py_ssize_t>(i)) ==
          reinterpret_cast<PyObject*>(Py_TYPE(value)))
        return true;
    }
    return false;
  }

 private:
  bool has(PyObject* value) const { return ids_.contains(reinterpret_cast<uintptr_t>(value)); }

  std::unordered_set<uintptr_t> ids_;
  const py::tuple& types_;
};

}  // namespace

py::list holding_namespaces(const py::list& namespaces, const py::dict& ids, const py::tuple& types) {
  const Wanted wanted(ids, types);
  py::list found;
  for (const auto& handle : namespaces) {
    const auto dictionary = py::reinterpret_borrow<py::dict>(handle);
    py::list names;
    PyObject* name = nullptr;
    PyObject* value = nullptr;
    for (Py_ssize_t position = 0; PyDict_Next(dictionary.ptr(), &position, &name, &value) != 0;) {
      if (wanted.is_held_by(value)) names.append(py::handle(name));
    }
    if (!names.empty()) found.append(py::make_tuple(dictionary, names));
  }
  return found;
}

}  // namespace fastfake
