// Stands in for libnvinfer, libnvinfer_plugin and libnvonnxparser under NVIDIA's real Python bindings, of 10.16 and 11.4.
//
// The bindings check the name, number and type of every argument, then call virtual functions of objects that a handful of
// C functions give them. Here these objects have tables of harmless slots that return another such object; the slots of
// the few functions whose answer matters hold functions of this file. Their numbers were found by calling each Python
// method of the wheels on a table whose slots print their own number. Nothing of TensorRT's behaviour is imitated beyond:
// a plan is the text "KDC PLAN", and an engine copies its input to its output, or the channel that is largest.

#include <dlfcn.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <typeinfo>
#include <utility>

namespace {

enum Kind { ANY, RUNTIME, ENGINE, CONTEXT, INSPECTOR, BUILDER, NETWORK, CONFIG, PARSER, IMAGE, RESULT, PLAN, CACHE, REFITTER, KINDS };
constexpr int SLOTS = 300;

struct Root {
  virtual ~Root() {}
} root;
struct Object {
  void** vtable;
  Object* impl;  // the objects of TensorRT forward every call to the object that stands here
};
void* tables[KINDS][SLOTS + 2];
Object* objects[KINDS];

void* harmless() { return objects[ANY]; }

bool is(const char* variable, const char* value) {
  const char* text = std::getenv(variable);
  return text && !std::strcmp(text, value);
}
bool logits() { return is("STUB_HEAD", "logits"); }

struct Dims {
  int32_t count;
  int64_t size[8];
};
Dims dims(int64_t batch, bool result) {
  if (result && !logits()) return {3, {batch, 4, 6}};
  return {4, {batch, 3, 4, 6}};
}
bool is_result(const char* name) { return !std::strcmp(name, "out"); }

struct Context {
  int64_t batch = 1;
  std::map<std::string, char*> at;
  void* profiler = nullptr;
};
std::map<void*, Context> contexts;
bool eleven = false, emits = true;

void run(void* key) {
  Context& context = contexts[key];
  const float* in = reinterpret_cast<float*>(context.at["image"]);
  for (int64_t n = 0; n < context.batch; ++n, in += 72) {
    if (logits()) {
      std::memcpy(context.at["out"] + n * 288, in, 288);
      continue;
    }
    for (int i = 0; i < 24; ++i) {
      int best = 0;
      for (int c = 1; c < 3; ++c)
        if (in[24 * c + i] > in[24 * best + i]) best = c;
      context.at["out"][n * 24 + i] = static_cast<char>(best);
    }
  }
}

// the runtime
void* deserialize(void*, const void* blob, std::size_t size) {
  return size >= 8 && !std::memcmp(blob, "KDC PLAN", 8) ? objects[ENGINE] : nullptr;
}
int32_t two() { return 2; }
int32_t one() { return 1; }
int32_t none() { return 0; }
const char* port_name(void*, int32_t index) { return index ? "out" : "image"; }
int32_t port_mode(void*, const char* name) { return is_result(name) ? 2 : 1; }
int32_t port_type(void*, const char* name) { return is_result(name) && !logits() ? 5 : 0; }
Dims port_shape(void*, const char* name) { return dims(is("STUB_BATCH", "1") ? 1 : -1, is_result(name)); }
Dims profile_shape(void*, const char* name, int32_t, int32_t which) {
  return dims(which == 0 ? 1 : which == 1 ? 2 : 4, is_result(name));
}
void* new_context() {
  char* place = static_cast<char*>(std::aligned_alloc(4096, 4096)) + 0x101;
  Object* made = reinterpret_cast<Object*>(place);
  made->vtable = tables[CONTEXT] + 2, made->impl = made;
  return made;
}
void* new_inspector() { return objects[INSPECTOR]; }
bool set_shape(void* self, const char*, const Dims& shape) {
  contexts[self].batch = shape.size[0];
  return shape.size[0] <= 4;
}
Dims shape_now(void* self, const char* name) { return dims(contexts[self].batch, is_result(name)); }
bool set_address(void* self, const char* name, void* address) {
  contexts[self].at[name] = static_cast<char*>(address);
  return true;
}
void report(Context& context) {
  using Report = void (*)(void*, const char*, float);
  Report told = (*reinterpret_cast<Report**>(context.profiler))[eleven ? 4 : 0];
  told(context.profiler, "conv1", 0.75f), told(context.profiler, "Reformatting CopyNode", 0.25f);
}
bool enqueue(void* self, void*) {
  if (is("STUB_ENQUEUE", "fails")) return false;
  if (is("STUB_ENQUEUE", "dies")) std::abort();
  using Queue = void (*)(void (*)(void*), void*);
  void* cuda = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
  Queue queue = cuda ? reinterpret_cast<Queue>(dlsym(cuda, "stub_queue")) : nullptr;
  queue ? queue(run, self) : run(self);
  if (contexts[self].profiler && emits) report(contexts[self]);
  return true;
}
void set_profiler(void* self, void* profiler) { contexts[self].profiler = profiler; }
void set_emits(void*, bool value) { emits = value; }
bool report_now(void* self) {
  report(contexts[self]);
  return true;
}
const char* information() {
  static std::string text;
  std::stringstream read;
  if (const char* path = std::getenv("STUB_LAYERS")) read << std::ifstream(path).rdbuf();
  text = read.str();
  return text.c_str();
}

// the builder
void* network() { return objects[NETWORK]; }
void* config() { return objects[CONFIG]; }
void* image() { return objects[IMAGE]; }
void* result() { return objects[RESULT]; }
void* build() { return objects[PLAN]; }
void* cache() { return objects[CACHE]; }
const char* image_name() { return "image"; }
const char* result_name() { return "out"; }
Dims image_shape() { return port_shape(nullptr, "image"); }
Dims result_shape() { return port_shape(nullptr, "out"); }
int32_t image_type() { return port_type(nullptr, "image"); }
int32_t result_type() { return port_type(nullptr, "out"); }
const char* plan_data() { return "KDC PLAN"; }
std::size_t plan_size() { return 8; }
std::size_t workspace() { return std::size_t(1) << 30; }
int32_t level() { return 3; }

template <typename Function>
void put(Kind kind, int slot, Function function) {
  tables[kind][slot + 2] = reinterpret_cast<void*>(function);
}

void prepare(int32_t version) {  // 101601 for 10.16.1
  if (objects[ANY]) return;
  eleven = version >= 110000;
  for (int kind = 0; kind < KINDS; ++kind) {
    for (int slot = 0; slot < SLOTS; ++slot) put(Kind(kind), slot, harmless);
    tables[kind][1] = (*reinterpret_cast<void***>(&root))[-1];  // pybind11 asks every object for its type
    // an odd address: read as a bool, a returned object is true
    char* place = static_cast<char*>(std::aligned_alloc(4096, 4096)) + 0x101;
    objects[kind] = reinterpret_cast<Object*>(place);
    objects[kind]->vtable = tables[kind] + 2, objects[kind]->impl = objects[kind];
  }
  auto at = [](int ten, int other) { return eleven ? other : ten; };
  put(RUNTIME, 3, deserialize);
  put(ENGINE, 5, new_context), put(ENGINE, at(18, 14), new_inspector);
  put(ENGINE, at(30, 26), two), put(ENGINE, at(31, 27), port_name), put(ENGINE, at(23, 19), port_mode);
  put(ENGINE, at(20, 16), port_type), put(ENGINE, at(19, 15), port_shape), put(ENGINE, at(29, 25), profile_shape);
  put(CONTEXT, at(21, 20), set_shape), put(CONTEXT, at(22, 21), shape_now), put(CONTEXT, at(24, 23), set_address);
  put(CONTEXT, at(37, 36), enqueue), put(CONTEXT, 5, set_profiler), put(CONTEXT, at(18, 17), set_emits);
  put(CONTEXT, at(20, 19), report_now);
  put(INSPECTOR, 6, information);
  put(BUILDER, at(8, 6), network), put(BUILDER, at(7, 5), config), put(BUILDER, at(14, 11), build);
  put(NETWORK, 12, two), put(NETWORK, 14, one), put(NETWORK, 15, image), put(NETWORK, 16, one), put(NETWORK, 17, result);
  put(IMAGE, 3, image_name), put(IMAGE, 5, image_shape), put(IMAGE, at(7, 6), image_type);
  put(RESULT, 3, result_name), put(RESULT, 5, result_shape), put(RESULT, at(7, 6), result_type);
  put(CONFIG, at(44, 33), workspace), put(CONFIG, at(48, 37), level);
  put(CONFIG, at(40, 29), cache), put(CONFIG, at(42, 31), cache), put(CACHE, 2, build);
  put(PARSER, at(5, 3), none);
  put(PLAN, 2, plan_data), put(PLAN, 3, plan_size), put(PLAN, 4, two);  // of int8: the size is in bytes
}

}  // namespace

extern "C" {
void* createInferRuntime_INTERNAL(void*, int32_t version) { return prepare(version), objects[RUNTIME]; }
void* createInferBuilder_INTERNAL(void*, int32_t version) { return prepare(version), objects[BUILDER]; }
void* createInferRefitter_INTERNAL(void*, void*, int32_t version) { return prepare(version), objects[REFITTER]; }
void* createNvOnnxParser_INTERNAL(void*, void*, int32_t) { return objects[PARSER]; }
void* createNvOnnxParserRefitter_INTERNAL(void*, void*, int32_t) { return objects[ANY]; }
void* getPluginRegistry() { return objects[ANY]; }
void* getBuilderPluginRegistry(int32_t) { return objects[ANY]; }
int32_t getNvOnnxParserVersion() { return 1; }
bool initLibNvInferPlugins(void*, const char*) { return true; }
}
