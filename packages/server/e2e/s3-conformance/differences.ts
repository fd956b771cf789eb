/** Where an endpoint does not do what S3 does, by the name of the case. A case that holds after all makes its test fail. */

export const EBB: Readonly<Record<string, string>> = {
  'Keys: a segment .. is part of the name':
    'clients and directories resolve such segments, so the key is refused with InvalidArgument',
};

export const MINIO: Readonly<Record<string, string>> = {};
