export const useSignal: any;
export const useComputed: any;
export const useSignalEffect: any;
