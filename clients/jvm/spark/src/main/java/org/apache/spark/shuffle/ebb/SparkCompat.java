package org.apache.spark.shuffle.ebb;

import java.lang.invoke.MethodHandle;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.MethodType;
import java.lang.reflect.Constructor;
import java.lang.reflect.Field;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import org.apache.spark.Aggregator;
import org.apache.spark.Partitioner;
import org.apache.spark.ShuffleDependency;
import org.apache.spark.TaskContext;
import org.apache.spark.scheduler.MapStatus;
import org.apache.spark.scheduler.MapStatus$;
import org.apache.spark.serializer.Serializer;
import org.apache.spark.storage.BlockManagerId;
import org.apache.spark.util.collection.ExternalSorter;
import scala.Option;
import scala.math.Ordering;

/**
 * What differs between the Spark lines of one jar: 4.1 gave MapStatus and ExternalSorter a further parameter, for row-based
 * checksums (SPARK-51756). Found once, by reflection, so that one jar serves 4.0 and later.
 */
final class SparkCompat {
  private SparkCompat() {}

  private static final Method MAP_STATUS_APPLY = mapStatusApply();
  private static final Constructor<?> EXTERNAL_SORTER = externalSorter();
  private static final Method ROW_CHECKSUMS = find(ShuffleDependency.class, "rowBasedChecksums");
  private static final Object[] NO_CHECKSUMS = new Object[0];

  static MapStatus mapStatus(BlockManagerId location, long[] lengths, long mapId, long checksum) {
    return (MapStatus) (MAP_STATUS_APPLY.getParameterCount() == 3
        ? invoke(MAP_STATUS_APPLY, MapStatus$.MODULE$, location, lengths, mapId)
        : invoke(MAP_STATUS_APPLY, MapStatus$.MODULE$, location, lengths, mapId, checksum));
  }

  @SuppressWarnings("unchecked")
  static <K, V, C> ExternalSorter<K, V, C> externalSorter(
      TaskContext context,
      Option<Aggregator<K, V, C>> aggregator,
      Option<Partitioner> partitioner,
      Option<Ordering<K>> ordering,
      Serializer serializer,
      Object[] rowChecksums) {
    try {
      return (ExternalSorter<K, V, C>) (EXTERNAL_SORTER.getParameterCount() == 5
          ? EXTERNAL_SORTER.newInstance(context, aggregator, partitioner, ordering, serializer)
          : EXTERNAL_SORTER.newInstance(context, aggregator, partitioner, ordering, serializer, emptyFor(rowChecksums)));
    } catch (InvocationTargetException e) {
      throw EbbErrors.sneaky(e.getCause());
    } catch (ReflectiveOperationException e) {
      throw new IllegalStateException("this Spark has another ExternalSorter than the lines this jar was built for", e);
    }
  }

  /** The row checksums that Spark 4.1+ asks for, or none. */
  static Object[] rowChecksums(ShuffleDependency<?, ?, ?> dependency) {
    if (ROW_CHECKSUMS == null) return NO_CHECKSUMS;
    Object[] asked = (Object[]) invoke(ROW_CHECKSUMS, dependency);
    return asked == null ? NO_CHECKSUMS : asked;
  }

  /** Feeds one row to a RowBasedChecksum. Called for every row. */
  static void updateChecksum(Object checksum, Object key, Object value) {
    try {
      RowChecksumMethods.UPDATE.invokeExact(checksum, key, value);
    } catch (Throwable e) {
      throw EbbErrors.sneaky(e);
    }
  }

  static long aggregatedChecksum(Object[] checksums) {
    return checksums.length == 0 ? 0 : (Long) invoke(RowChecksumMethods.AGGREGATE, null, (Object) checksums);
  }

  /** A constructor parameter that Scala kept as a private field; null when this Spark has none of that name. */
  static Object privateField(Object of, String name) {
    try {
      Field field = of.getClass().getDeclaredField(name);
      field.setAccessible(true);
      return field.get(of);
    } catch (ReflectiveOperationException | RuntimeException e) {
      return null;
    }
  }

  static boolean hasPrivateField(Object of, String name) {
    try {
      of.getClass().getDeclaredField(name).setAccessible(true);
      return true;
    } catch (ReflectiveOperationException | RuntimeException e) {
      return false;
    }
  }

  private static final class RowChecksumMethods {
    static final MethodHandle UPDATE;
    static final Method AGGREGATE;

    static {
      try {
        Class<?> type = Class.forName("org.apache.spark.shuffle.checksum.RowBasedChecksum");
        UPDATE = MethodHandles.lookup().unreflect(find(type, "update"))
            .asType(MethodType.methodType(void.class, Object.class, Object.class, Object.class));
        AGGREGATE = find(type, "getAggregatedChecksumValue");
      } catch (ReflectiveOperationException e) {
        throw new IllegalStateException("this Spark has other row checksums than the lines this jar was built for", e);
      }
    }
  }

  private static Object emptyFor(Object[] checksums) {
    Class<?> wanted = EXTERNAL_SORTER.getParameterTypes()[5];
    if (wanted.isInstance(checksums)) return checksums;
    return java.lang.reflect.Array.newInstance(wanted.getComponentType(), 0);
  }

  private static Method mapStatusApply() {
    for (Method method : MapStatus$.class.getMethods()) if (method.getName().equals("apply")) return method;
    throw new IllegalStateException("MapStatus has no apply");
  }

  private static Constructor<?> externalSorter() {
    for (Constructor<?> made : ExternalSorter.class.getConstructors()) {
      if (made.getParameterCount() == 5 || made.getParameterCount() == 6) return made;
    }
    throw new IllegalStateException("ExternalSorter has no constructor known here");
  }

  private static Method find(Class<?> type, String name) {
    for (Method method : type.getMethods()) if (method.getName().equals(name)) return method;
    return null;
  }

  private static Object invoke(Method method, Object on, Object... with) {
    try {
      return method.invoke(on, with);
    } catch (InvocationTargetException e) {
      throw EbbErrors.sneaky(e.getCause());
    } catch (IllegalAccessException e) {
      throw new IllegalStateException(e);
    }
  }
}
