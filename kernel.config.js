/** ava's settings for the tests on real kernel devices: one after the other, with time to spare. */
export default {
  files: ['dist/test/kernel/**/*.test.js'],
  concurrency: 1,
  serial: true,
  timeout: '10m',
  workerThreads: false,
};
