-- What a worker holds does not count any more. KEYS: the workers. ARGV: the worker.
return redis.call('HDEL', KEYS[1], ARGV[1])
