// CRC-32C, by the processor's own instruction where it has one, else by a table.
//
//   crc32c(bytes, seed, start, end) -> number
//   crc32cTable: the same, always by table, for tests
//
// Both run on the JavaScript thread: 64 KiB take some 10 microseconds by instruction.
#include <array>
#include <cstdint>
#include <cstring>

#include "addon_data.h"

namespace regrow {
namespace {

using Crc32c = uint32_t (*)(uint32_t crc, const uint8_t* bytes, size_t length);

constexpr std::array<uint32_t, 256> build_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; byte++) {
    uint32_t value = byte;
    for (int bit = 0; bit < 8; bit++) value = (value >> 1) ^ (value & 1 ? 0x82f63b78u : 0);
    table[byte] = value;
  }
  return table;
}

constexpr std::array<uint32_t, 256> kTable = build_table();

uint32_t by_table(uint32_t crc, const uint8_t* bytes, size_t length) {
  for (size_t index = 0; index < length; index++) {
    crc = (crc >> 8) ^ kTable[(crc ^ bytes[index]) & 0xff];
  }
  return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) uint32_t by_instruction(uint32_t crc, const uint8_t* bytes,
                                                          size_t length) {
  uint64_t wide = crc;
  for (; length >= 8; bytes += 8, length -= 8) {
    uint64_t word;
    memcpy(&word, bytes, 8);
    wide = __builtin_ia32_crc32di(wide, word);
  }
  crc = static_cast<uint32_t>(wide);
  for (; length > 0; bytes++, length--) crc = __builtin_ia32_crc32qi(crc, *bytes);
  return crc;
}

Crc32c best() { return __builtin_cpu_supports("sse4.2") ? by_instruction : by_table; }
#else
Crc32c best() { return by_table; }
#endif

// JavaScript thread.
Napi::Value checksum(const Napi::CallbackInfo& info, Crc32c update) {
  const Napi::Env env = info.Env();
  if (info.Length() != 4 || !info[0].IsTypedArray()) {
    Napi::TypeError::New(env, "crc32c takes bytes, seed, start and end")
        .ThrowAsJavaScriptException();
    return env.Undefined();
  }
  const auto bytes = info[0].As<Napi::Uint8Array>();
  const uint32_t seed = info[1].ToNumber().Uint32Value();
  const double start = info[2].ToNumber().DoubleValue();
  const double end = info[3].ToNumber().DoubleValue();
  if (!(start >= 0 && start <= end && end <= static_cast<double>(bytes.ByteLength()))) {
    Napi::RangeError::New(env, "crc32c: the range lies outside the bytes")
        .ThrowAsJavaScriptException();
    return env.Undefined();
  }
  const auto from = static_cast<size_t>(start);
  const auto length = static_cast<size_t>(end) - from;
  return Napi::Number::New(env, ~update(~seed, bytes.Data() + from, length));
}

}  // namespace

void init_checksum(Napi::Env env, Napi::Object exports) {
  const Crc32c update = best();
  exports.Set("crc32c", Napi::Function::New(env, [update](const Napi::CallbackInfo& info) {
    return checksum(info, update);
  }));
  exports.Set("crc32cTable", Napi::Function::New(env, [](const Napi::CallbackInfo& info) {
    return checksum(info, by_table);
  }));
}

}  // namespace regrow
