#include "cache/registrations.h"

#include "objects/python_guards.h"
#include "process_state.h"

#include <c10/util/Exception.h>

#include <memory>
#include <string>

namespace fastfake {

namespace {

class Listener final : public c10::OpRegistrationListener {
 public:
  explicit Listener(Registrations& registrations) : registrations_(registrations) {}
  void onOperatorRegistered(const c10::OperatorHandle& /*op*/) override { registrations_.note(); }
  void onOperatorDeregistered(const c10::OperatorHandle& /*op*/) override { registrations_.note(); }

 private:
  Registrations& registrations_;
};

#if PY_VERSION_HEX >= 0x030C0000
int note_change(PyDict_WatchEvent /*event*/, PyObject* /*dict*/, PyObject* /*key*/, PyObject* /*value*/) {
  process().registrations.note();
  return 0;
}
#endif

}  // namespace

Registrations::Registrations()
    : listening_(c10::Dispatcher::singleton().addRegistrationListener(std::make_unique<Listener>(*this))) {}

void Registrations::watch(PyObject* dictionaries, PyObject* list, PyObject* has_rule) {
  const auto count = static_cast<size_t>(PyTuple_GET_SIZE(dictionaries));
  TORCH_CHECK_VALUE(count_ == 0, "tables are watched already");
  TORCH_CHECK_VALUE(count <= most_dictionaries, "at most ", most_dictionaries,
                    " dictionaries can be watched");
  TORCH_CHECK_TYPE(PyList_CheckExact(list), "the rules must be in a list");
  for (size_t i = 0; i < count; ++i) {
    TORCH_CHECK_TYPE(PyDict_Check(PyTuple_GET_ITEM(dictionaries, static_cast<Py_ssize_t>(i))),
                     "a table must be a dictionary");
  }
#if PY_VERSION_HEX >= 0x030C0000
  const int watcher = PyDict_AddWatcher(note_change);
  if (watcher < 0) throw python_error();
#endif
  for (; count_ < count; ++count_) {
    PyObject* dictionary = PyTuple_GET_ITEM(dictionaries, static_cast<Py_ssize_t>(count_));
#if PY_VERSION_HEX >= 0x030C0000
    if (PyDict_Watch(watcher, dictionary) != 0) throw python_error();
#endif
    dictionaries_.at(count_) = Py_NewRef(dictionary);
  }
  list_ = Py_NewRef(list);
  has_rule_ = Py_NewRef(has_rule);
}

bool Registrations::has_rule(const c10::OperatorName& op) const {
  const std::string text = c10::toString(op);
  const auto name =
      PyRef::steal(PyUnicode_FromStringAndSize(text.data(), static_cast<Py_ssize_t>(text.size())));
  return is_true(PyRef::steal(PyObject_CallOneArg(has_rule_, name.get())).get());
}

void Registrations::forget_answers() {
  noted_.store(false, std::memory_order_release);
  known_version_ = version_of_tables();
  ++number_;
  process().cache.drop_entries();
}

}  // namespace fastfake
