{
  "variables": { "sanitize%": "" },
  "targets": [
    {
      "target_name": "regrow",
      "sources": [
        "native/addon.cc",
        "native/completions.cc",
        "native/work_pool.cc",
        "native/file_io.cc",
        "native/file_ops.cc",
        "native/shared_memory.cc",
        "native/checksum.cc",
        "native/nbd_client.cc",
        "native/nbd_connection.cc",
        "native/fuse_addon.cc",
        "native/fuse_connection.cc",
        "native/fuse_session.cc",
        "native/fuse_tree.cc",
        "native/loop_addon.cc",
        "native/mount_namespace.cc",
        "native/stale_mount.cc",
        "native/loop_device.cc",
        "native/host_system.cc"
      ],
      "include_dirs": ["<!@(node -p \"require('node-addon-api').include_dir\")"],
      "defines": ["NAPI_VERSION=8", "NAPI_DISABLE_CPP_EXCEPTIONS", "NODE_ADDON_API_DISABLE_DEPRECATED", "_FILE_OFFSET_BITS=64"],
      "cflags!": ["-fno-omit-frame-pointer"],
      "cflags_cc!": ["-std=gnu++17", "-std=gnu++20"],
      "cflags_cc": ["-std=c++20", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti"],
      "libraries": ["-lnbd"],
      "conditions": [
        ["sanitize!=''", {
          "cflags_cc": ["-fsanitize=<(sanitize)", "-fno-omit-frame-pointer", "-g"],
          "ldflags": ["-fsanitize=<(sanitize)"]
        }]
      ]
    },
    {
      "target_name": "regrow-launcher",
      "type": "executable",
      "sources": ["native/launcher.cc", "native/supervisor.cc"],
      "cflags_cc!": ["-std=gnu++17", "-std=gnu++20"],
      "cflags_cc": ["-std=c++20", "-Wall", "-Wextra", "-Werror", "-fno-exceptions", "-fno-rtti"]
    }
  ]
}
