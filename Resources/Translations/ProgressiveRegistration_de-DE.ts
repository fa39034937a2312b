<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE TS>
<TS version="2.1" language="de_DE" sourcelanguage="en">
  <context>
    <name>ProgressiveRegistration</name>
    <message>
      <source>Progressive Registration</source>
      <translation>Progressive Registrierung</translation>
    </message>
    <message>
      <source>&lt;p&gt;Registers two lung CT scans of one patient (inhale and exhale, baseline and follow-up) with a progressively trained network, and shows how good the result is: landmark error, folding, fusion.&lt;/p&gt;&lt;p&gt;Choose a fixed and a moving volume and press Register. The lungs are found automatically. Sample data: &lt;i&gt;Sample Data&lt;/i&gt; module, &lt;i&gt;BreathingThorax&lt;/i&gt;.&lt;/p&gt;&lt;p&gt;For research; not a medical device.&lt;/p&gt;</source>
      <translation>&lt;p&gt;Registriert zwei Lungen-CTs eines Patienten (Einatmung und Ausatmung, erste Aufnahme und Verlauf) mit einem schrittweise trainierten Netz und zeigt, wie gut das Ergebnis ist: Landmarkenfehler, Faltung, Überlagerung.&lt;/p&gt;&lt;p&gt;Ein festes und ein bewegtes Volumen wählen und Registrieren drücken. Die Lungen werden von selbst gefunden. Beispieldaten: Modul &lt;i&gt;Sample Data&lt;/i&gt;, &lt;i&gt;BreathingThorax&lt;/i&gt;.&lt;/p&gt;&lt;p&gt;Für die Forschung; kein Medizinprodukt.&lt;/p&gt;</translation>
    </message>
    <message>
      <source>&lt;p&gt;The method is described in: K.A.J. Eppenhof, M.W. Lafarge, M. Veta and J.P.W. Pluim, &lt;i&gt;Progressively Trained Convolutional Neural Networks for Deformable Image Registration&lt;/i&gt;, IEEE Transactions on Medical Imaging 39(5), 1594-1604, 2020, &lt;a href="https://doi.org/10.1109/TMI.2019.2953788"&gt;doi:10.1109/TMI.2019.2953788&lt;/a&gt;. Please cite it when you use this module.&lt;/p&gt;</source>
      <translation>&lt;p&gt;Das Verfahren ist beschrieben in: K.A.J. Eppenhof, M.W. Lafarge, M. Veta und J.P.W. Pluim, &lt;i&gt;Progressively Trained Convolutional Neural Networks for Deformable Image Registration&lt;/i&gt;, IEEE Transactions on Medical Imaging 39(5), 1594-1604, 2020, &lt;a href="https://doi.org/10.1109/TMI.2019.2953788"&gt;doi:10.1109/TMI.2019.2953788&lt;/a&gt;. Bitte zitieren, wenn dieses Modul verwendet wird.&lt;/p&gt;</translation>
    </message>
    <message>
      <source>Inputs</source>
      <translation>Eingaben</translation>
    </message>
    <message>
      <source>Fixed volume:</source>
      <translation>Festes Volumen:</translation>
    </message>
    <message>
      <source>The CT that stays as it is. The result lies in its frame.</source>
      <translation>Das CT, das bleibt, wie es ist. Das Ergebnis liegt in seinem Koordinatensystem.</translation>
    </message>
    <message>
      <source>Select a volume</source>
      <translation>Volumen wählen</translation>
    </message>
    <message>
      <source>Moving volume:</source>
      <translation>Bewegtes Volumen:</translation>
    </message>
    <message>
      <source>The CT of the same patient that is aligned to the fixed one.</source>
      <translation>Das CT desselben Patienten, das an das feste angepasst wird.</translation>
    </message>
    <message>
      <source>Fixed landmarks:</source>
      <translation>Feste Landmarken:</translation>
    </message>
    <message>
      <source>Optional. Points in the fixed volume, to measure the error with. They do not steer the registration.</source>
      <translation>Freiwillig. Punkte im festen Volumen, mit denen der Fehler gemessen wird. Sie steuern die Registrierung nicht.</translation>
    </message>
    <message>
      <source>Fixed landmarks</source>
      <translation>Feste Landmarken</translation>
    </message>
    <message>
      <source>Moving landmarks:</source>
      <translation>Bewegte Landmarken:</translation>
    </message>
    <message>
      <source>Optional. The same points in the moving volume: matched by label where labels agree, else by order.</source>
      <translation>Freiwillig. Dieselben Punkte im bewegten Volumen: nach Namen zugeordnet, wo diese übereinstimmen, sonst nach Reihenfolge.</translation>
    </message>
    <message>
      <source>Moving landmarks</source>
      <translation>Bewegte Landmarken</translation>
    </message>
    <message>
      <source>Fixed lung region:</source>
      <translation>Feste Lungenregion:</translation>
    </message>
    <message>
      <source>Optional. Where the lungs of the fixed volume are: a segmentation or label map of the lungs, or a ROI around them. Without one the lungs are found automatically.</source>
      <translation>Freiwillig. Wo die Lungen des festen Volumens liegen: eine Segmentierung oder Labelkarte der Lungen oder eine ROI um sie. Ohne Angabe werden die Lungen selbsttätig gefunden.</translation>
    </message>
    <message>
      <source>Find automatically</source>
      <translation>Selbsttätig finden</translation>
    </message>
    <message>
      <source>Which segment is the lung of the fixed volume.</source>
      <translation>Welches Segment die Lunge des festen Volumens ist.</translation>
    </message>
    <message>
      <source>Segment of the fixed lung region</source>
      <translation>Segment der festen Lungenregion</translation>
    </message>
    <message>
      <source>Moving lung region:</source>
      <translation>Bewegte Lungenregion:</translation>
    </message>
    <message>
      <source>Optional. Where the lungs of the moving volume are: a segmentation or label map of the lungs, or a ROI around them. Without one the lungs are found automatically.</source>
      <translation>Freiwillig. Wo die Lungen des bewegten Volumens liegen: eine Segmentierung oder Labelkarte der Lungen oder eine ROI um sie. Ohne Angabe werden die Lungen selbsttätig gefunden.</translation>
    </message>
    <message>
      <source>Which segment is the lung of the moving volume.</source>
      <translation>Welches Segment die Lunge des bewegten Volumens ist.</translation>
    </message>
    <message>
      <source>Segment of the moving lung region</source>
      <translation>Segment der bewegten Lungenregion</translation>
    </message>
    <message>
      <source>Start from:</source>
      <translation>Ausgang:</translation>
    </message>
    <message>
      <source>Optional. A transform from another module that brings the moving volume near the fixed one, for pairs whose lungs cannot be matched. Without one the lungs are matched.</source>
      <translation>Wahlfrei. Eine Transformation aus einem anderen Modul, die das bewegte Volumen in die Nähe des festen bringt, für Paare, deren Lungen sich nicht zuordnen lassen. Ohne sie werden die Lungen zugeordnet.</translation>
    </message>
    <message>
      <source>The lungs</source>
      <translation>Die Lungen</translation>
    </message>
    <message>
      <source>Make lung segmentations</source>
      <translation>Lungensegmentierungen anlegen</translation>
    </message>
    <message>
      <source>Find the lungs of both volumes and put them into segmentations that can be edited and that are then used as lung regions.</source>
      <translation>Die Lungen beider Volumina finden und als Segmentierungen ablegen, die bearbeitet werden können und dann als Lungenregionen dienen.</translation>
    </message>
    <message>
      <source>Fit to landmarks</source>
      <translation>An Landmarken anpassen</translation>
    </message>
    <message>
      <source>Make a transform that fits the two landmark lists (affine from 6 landmarks on, else rigid) and start from it.</source>
      <translation>Eine Transformation an die beiden Landmarkenlisten anpassen (ab 6 Landmarken affin, sonst starr) und von ihr ausgehen.</translation>
    </message>
    <message>
      <source>Sequence frames</source>
      <translation>Bilder einer Sequenz</translation>
    </message>
    <message>
      <source>Sequence:</source>
      <translation>Sequenz:</translation>
    </message>
    <message>
      <source>A sequence of CT volumes, for instance a 4DCT.</source>
      <translation>Eine Sequenz von CT-Volumen, etwa ein 4D-CT.</translation>
    </message>
    <message>
      <source>None</source>
      <translation>Keine</translation>
    </message>
    <message>
      <source>Fixed frame:</source>
      <translation>Festes Bild:</translation>
    </message>
    <message>
      <source>Which frame is the fixed volume, counted from 0.</source>
      <translation>Welches Bild das feste Volumen ist, von 0 an gezählt.</translation>
    </message>
    <message>
      <source>Moving frame:</source>
      <translation>Bewegtes Bild:</translation>
    </message>
    <message>
      <source>Which frame is the moving volume, counted from 0.</source>
      <translation>Welches Bild das bewegte Volumen ist, von 0 an gezählt.</translation>
    </message>
    <message>
      <source>Use these frames</source>
      <translation>Diese Bilder nehmen</translation>
    </message>
    <message>
      <source>Copy the two frames into volumes of their own and choose them as fixed and moving volume.</source>
      <translation>Die beiden Bilder in eigene Volumen kopieren und als festes und bewegtes Volumen wählen.</translation>
    </message>
    <message>
      <source>Outputs</source>
      <translation>Ausgaben</translation>
    </message>
    <message>
      <source>Transform:</source>
      <translation>Transformation:</translation>
    </message>
    <message>
      <source>Make a transform and put the moving volume and its landmarks under it.</source>
      <translation>Eine Transformation anlegen und das bewegte Volumen mit seinen Landmarken darunter stellen.</translation>
    </message>
    <message>
      <source>The transform to overwrite, or a new one.</source>
      <translation>Die zu überschreibende Transformation oder eine neue.</translation>
    </message>
    <message>
      <source>Create new</source>
      <translation>Neu anlegen</translation>
    </message>
    <message>
      <source>Registration</source>
      <translation>Registrierung</translation>
    </message>
    <message>
      <source>Transform to write to</source>
      <translation>Transformation, in die geschrieben wird</translation>
    </message>
    <message>
      <source>Registered volume:</source>
      <translation>Registriertes Volumen:</translation>
    </message>
    <message>
      <source>Resample the moving volume onto the fixed volume's voxels.</source>
      <translation>Das bewegte Volumen auf die Voxel des festen abtasten.</translation>
    </message>
    <message>
      <source>The volume to overwrite, or a new one.</source>
      <translation>Das zu überschreibende Volumen oder ein neues.</translation>
    </message>
    <message>
      <source>Registered</source>
      <translation>Registriert</translation>
    </message>
    <message>
      <source>Registered volume to write to</source>
      <translation>Registriertes Volumen, in das geschrieben wird</translation>
    </message>
    <message>
      <source>Jacobian volume:</source>
      <translation>Jacobi-Volumen:</translation>
    </message>
    <message>
      <source>Local volume change: above 1 the moving volume is larger there, 0 or less is folding.</source>
      <translation>Örtliche Volumenänderung: über 1 ist das bewegte Volumen dort größer, 0 oder weniger ist Faltung.</translation>
    </message>
    <message>
      <source>Jacobian</source>
      <translation>Jacobi</translation>
    </message>
    <message>
      <source>Jacobian volume to write to</source>
      <translation>Jacobi-Volumen, in das geschrieben wird</translation>
    </message>
    <message>
      <source>B-spline:</source>
      <translation>B-Spline:</translation>
    </message>
    <message>
      <source>Also make a B-spline transform, for programs that read no displacement fields. It is smoother than the field; the message says by how much.</source>
      <translation>Auch eine B-Spline-Transformation anlegen, für Programme, die keine Verschiebungsfelder lesen. Sie ist glatter als das Feld; die Meldung sagt, um wie viel.</translation>
    </message>
    <message>
      <source>The B-spline transform to overwrite, or a new one.</source>
      <translation>Die B-Spline-Transformation, die überschrieben wird, oder eine neue.</translation>
    </message>
    <message>
      <source>B-spline</source>
      <translation>B-Spline</translation>
    </message>
    <message>
      <source>B-spline transform to write to</source>
      <translation>B-Spline-Transformation, in die geschrieben wird</translation>
    </message>
    <message>
      <source>Hardened copies</source>
      <translation>Fest angewandte Kopien</translation>
    </message>
    <message>
      <source>Copies with the transform applied for good: the volume keeps its own voxels where it can, its landmarks lie in the fixed frame.</source>
      <translation>Kopien, auf die die Transformation endgültig angewendet ist: Das Volumen behält seine eigenen Voxel, wo es kann, seine Landmarken liegen im festen Rahmen.</translation>
    </message>
    <message>
      <source>Options</source>
      <translation>Optionen</translation>
    </message>
    <message>
      <source>Preset:</source>
      <translation>Voreinstellung:</translation>
    </message>
    <message>
      <source>How much work goes into this pair.</source>
      <translation>Wie viel Arbeit in dieses Paar geht.</translation>
    </message>
    <message>
      <source>Lung boxes:</source>
      <translation>Lungenquader:</translation>
    </message>
    <message>
      <source>Own boxes also align scans that lie far apart in the scanner; a shared box is what the paper used.</source>
      <translation>Eigene Boxen richten auch Aufnahmen aus, die im Scanner weit auseinander liegen; eine gemeinsame Box ist das, was der Artikel verwendet.</translation>
    </message>
    <message>
      <source>Device:</source>
      <translation>Gerät:</translation>
    </message>
    <message>
      <source>Where the network runs.</source>
      <translation>Wo das Netz rechnet.</translation>
    </message>
    <message>
      <source>Model:</source>
      <translation>Modell:</translation>
    </message>
    <message>
      <source>The trained network.</source>
      <translation>Das trainierte Netz.</translation>
    </message>
    <message>
      <source>What the model was trained on, its licence and how it was checked.</source>
      <translation>Womit das Modell trainiert wurde, seine Lizenz und wie es geprüft wurde.</translation>
    </message>
    <message>
      <source>Check there and back</source>
      <translation>Hin und zurück prüfen</translation>
    </message>
    <message>
      <source>Register the other way, too, and tell how far there and back again misses: twice the time. Small is not proof that it is right, large is proof that it is not.</source>
      <translation>Auch in der anderen Richtung registrieren und sagen, um wie viel hin und zurück sich verfehlen: doppelte Zeit. Wenig beweist nicht, dass es stimmt; viel beweist, dass es nicht stimmt.</translation>
    </message>
    <message>
      <source>My settings:</source>
      <translation>Meine Einstellungen:</translation>
    </message>
    <message>
      <source>Choose saved settings, or type a name and press Save.</source>
      <translation>Gespeicherte Einstellungen wählen, oder einen Namen eingeben und Speichern drücken.</translation>
    </message>
    <message>
      <source>Save</source>
      <translation>Sichern</translation>
    </message>
    <message>
      <source>Keep the options and wanted outputs under this name, on this computer.</source>
      <translation>Die Optionen und gewünschten Ausgaben unter diesem Namen auf diesem Rechner behalten.</translation>
    </message>
    <message>
      <source>Delete</source>
      <translation>Löschen</translation>
    </message>
    <message>
      <source>Forget the settings of this name.</source>
      <translation>Die Einstellungen dieses Namens vergessen.</translation>
    </message>
    <message>
      <source>Register</source>
      <translation>Registrieren</translation>
    </message>
    <message>
      <source>Align the moving volume to the fixed one.</source>
      <translation>Das bewegte Volumen an das feste anpassen.</translation>
    </message>
    <message>
      <source>Undo</source>
      <translation>Zurücknehmen</translation>
    </message>
    <message>
      <source>Put the scene back as it was before the last registration.</source>
      <translation>Die Szene in den Zustand vor der letzten Registrierung bringen.</translation>
    </message>
    <message>
      <source>Progress</source>
      <translation>Fortschritt</translation>
    </message>
    <message>
      <source>View</source>
      <translation>Ansicht</translation>
    </message>
    <message>
      <source>Fusion:</source>
      <translation>Überlagerung:</translation>
    </message>
    <message>
      <source>How the slice views show the two volumes. Fixed orange and moving blue: what lines up looks grey.</source>
      <translation>Wie die Schichtansichten die zwei Volumina zeigen. Festes orange, bewegtes blau: Was sich deckt, ist grau.</translation>
    </message>
    <message>
      <source>Opacity of moving:</source>
      <translation>Deckkraft des bewegten:</translation>
    </message>
    <message>
      <source>0 shows the fixed volume alone, 1 the moving one (or what is coloured).</source>
      <translation>0 zeigt das feste Volumen allein, 1 das bewegte (oder das Eingefärbte).</translation>
    </message>
    <message>
      <source>Make landmarks</source>
      <translation>Landmarken setzen</translation>
    </message>
    <message>
      <source>How many landmarks at most.</source>
      <translation>Wie viele Landmarken höchstens.</translation>
    </message>
    <message>
      <source>How many landmarks to suggest</source>
      <translation>Wie viele Landmarken vorgeschlagen werden</translation>
    </message>
    <message>
      <source>Suggest landmarks</source>
      <translation>Landmarken vorschlagen</translation>
    </message>
    <message>
      <source>Find distinct, well spread points in the fixed lungs and their partners in the moving volume. None counts before you accept it.</source>
      <translation>Markante, gut verteilte Punkte in den festen Lungen und ihre Partner im bewegten Volumen finden. Keiner zählt, bevor Sie ihn annehmen.</translation>
    </message>
    <message>
      <source>Accept</source>
      <translation>Annehmen</translation>
    </message>
    <message>
      <source>Both points lie on the same anatomy, as they are or after you moved them: count this landmark. (A)</source>
      <translation>Beide Punkte liegen auf derselben Anatomie, so oder nachdem Sie sie verschoben haben: Diese Landmarke zählt. (A)</translation>
    </message>
    <message>
      <source>Reject</source>
      <translation>Verwerfen</translation>
    </message>
    <message>
      <source>This is no good landmark: remove it from both lists. (R)</source>
      <translation>Keine gute Landmarke: aus beiden Listen entfernen. (R)</translation>
    </message>
    <message>
      <source>Later</source>
      <translation>Später</translation>
    </message>
    <message>
      <source>Decide on this one after the others. (L)</source>
      <translation>Über diese nach den anderen entscheiden. (L)</translation>
    </message>
    <message>
      <source>Side by side</source>
      <translation>Nebeneinander</translation>
    </message>
    <message>
      <source>Show fixed volume above, moving volume below, three planes each, centred on the landmark.</source>
      <translation>Festes Volumen oben, bewegtes unten zeigen, je drei Ebenen, auf die Landmarke zentriert.</translation>
    </message>
    <message>
      <source>Second observer:</source>
      <translation>Zweiter Beobachter:</translation>
    </message>
    <message>
      <source>The moving landmarks as another person placed them: how far the two lie apart is what a landmark error can show at best.</source>
      <translation>Die bewegten Landmarken, wie eine andere Person sie gesetzt hat: Wie weit beide auseinander liegen, ist das Beste, was ein Landmarkenfehler zeigen kann.</translation>
    </message>
    <message>
      <source>Landmark error</source>
      <translation>Landmarkenfehler</translation>
    </message>
    <message>
      <source>The transform to measure: any kind, from this module or another one.</source>
      <translation>Die zu messende Transformation: jeder Art, aus diesem Modul oder einem anderen.</translation>
    </message>
    <message>
      <source>Worst landmark first. Click a row to see the landmark in the slice views.</source>
      <translation>Schlechteste Landmarke zuerst. Ein Klick auf eine Zeile zeigt sie in den Schichtansichten.</translation>
    </message>
    <message>
      <source>Landmark errors, worst first</source>
      <translation>Landmarkenfehler, der größte zuerst</translation>
    </message>
    <message>
      <source>Make table</source>
      <translation>Tabelle anlegen</translation>
    </message>
    <message>
      <source>Make a table node with the errors, for export. It follows the landmarks.</source>
      <translation>Einen Tabellenknoten mit den Fehlern anlegen, zum Ausführen. Er folgt den Landmarken.</translation>
    </message>
    <message>
      <source>Error vectors</source>
      <translation>Fehlervektoren</translation>
    </message>
    <message>
      <source>Show or hide each error as an arrow as long as the error, coloured by it, in 2D and 3D.</source>
      <translation>Jeden Fehler als Pfeil zeigen oder verbergen, so lang wie der Fehler und nach ihm gefärbt, in 2D und 3D.</translation>
    </message>
    <message>
      <source>Warped grid</source>
      <translation>Verformtes Gitter</translation>
    </message>
    <message>
      <source>Show or hide the chosen transform as a grid in the slice and 3D views, coloured by how far it moves, with a legend.</source>
      <translation>Die gewählte Transformation als Gitter in den Schicht- und 3D-Ansichten zeigen oder verbergen, nach der Verschiebung gefärbt, mit Legende.</translation>
    </message>
    <message>
      <source>Folding and report</source>
      <translation>Faltung und Bericht</translation>
    </message>
    <message>
      <source>Voxels where the transform turns tissue inside out, and how local volume changes.</source>
      <translation>Voxel, in denen die Transformation Gewebe umstülpt, und wie sich das Volumen örtlich ändert.</translation>
    </message>
    <message>
      <source>Measure folding</source>
      <translation>Faltung messen</translation>
    </message>
    <message>
      <source>Measure the transform chosen under Landmark error, also one from another module.</source>
      <translation>Die unter Landmarkenfehler gewählte Transformation messen, auch eine aus einem anderen Modul.</translation>
    </message>
    <message>
      <source>The folder that gets report.html and report.json.</source>
      <translation>Der Ordner für report.html und report.json.</translation>
    </message>
    <message>
      <source>Folder for the report</source>
      <translation>Ordner für den Bericht</translation>
    </message>
    <message>
      <source>Export report</source>
      <translation>Bericht schreiben</translation>
    </message>
    <message>
      <source>Write the figures with pictures and landmarks as HTML and JSON.</source>
      <translation>Die Werte mit Bildern und Landmarken als HTML und JSON schreiben.</translation>
    </message>
  </context>
  <context>
    <name>ProgressiveRegistrationSlicer.choices</name>
    <message>
      <source>Own: each scan around its own lungs</source>
      <translation>Eigene: jeder Scan um seine eigenen Lungen</translation>
    </message>
    <message>
      <source>Shared: one box around both, as in the paper</source>
      <translation>Gemeinsam: ein Quader um beide, wie im Artikel</translation>
    </message>
    <message>
      <source>Off</source>
      <translation>Aus</translation>
    </message>
    <message>
      <source>Fixed orange, moving blue</source>
      <translation>Festes orange, bewegtes blau</translation>
    </message>
    <message>
      <source>Checkerboard</source>
      <translation>Schachbrett</translation>
    </message>
    <message>
      <source>Flicker</source>
      <translation>Wechselbild</translation>
    </message>
    <message>
      <source>Difference in HU</source>
      <translation>Differenz in HU</translation>
    </message>
    <message>
      <source>Local volume change</source>
      <translation>Örtliche Volumenänderung</translation>
    </message>
    <message>
      <source>Expected error</source>
      <translation>Zu erwartender Fehler</translation>
    </message>
  </context>
  <context>
    <name>ProgressiveRegistrationSlicer.fusion</name>
    <message>
      <source>Difference</source>
      <translation>Differenz</translation>
    </message>
    <message>
      <source>Moving - fixed (HU)</source>
      <translation>Bewegt - fest (HU)</translation>
    </message>
    <message>
      <source>Local volume change</source>
      <translation>Örtliche Volumenänderung</translation>
    </message>
    <message>
      <source>Jacobian (1: none)</source>
      <translation>Jacobi (1: keine)</translation>
    </message>
    <message>
      <source>Expected error</source>
      <translation>Zu erwartender Fehler</translation>
    </message>
    <message>
      <source>Expected error (mm)</source>
      <translation>Zu erwartender Fehler (mm)</translation>
    </message>
  </context>
  <context>
    <name>ProgressiveRegistrationSlicer.initial</name>
    <message>
      <source>{moving} is under {transform} already: take it out (Data module, Transform: None) and choose the transform under Start from alone.</source>
      <translation>{moving} liegt schon unter {transform}: herausnehmen (Modul Data, Transform: None) und die Transformation allein unter Ausgehen von wählen.</translation>
    </message>
    <message>
      <source>Fit to landmarks</source>
      <translation>An Landmarken anpassen</translation>
    </message>
    <message>
      <source>{kind} fit of {count} landmarks: {mean:.1f} mm left on average, {most:.1f} mm at most.</source>
      <translation>{kind} Anpassung von {count} Landmarken: im Mittel bleiben {mean:.1f} mm, höchstens {most:.1f} mm.</translation>
    </message>
    <message>
      <source>Affine</source>
      <translation>Affine</translation>
    </message>
    <message>
      <source>Rigid</source>
      <translation>Starre</translation>
    </message>
    <message>
      <source>{count} landmarks are too few to fit a transform: place at least 3.</source>
      <translation>{count} Landmarken sind zu wenige, um eine Transformation anzupassen: mindestens 3 setzen.</translation>
    </message>
    <message>
      <source>The landmarks lie on a line: place some beside it.</source>
      <translation>Die Landmarken liegen auf einer Geraden: einige daneben setzen.</translation>
    </message>
  </context>
  <context>
    <name>ProgressiveRegistrationSlicer.installer</name>
    <message>
      <source>{name} ({version} is too old)</source>
      <translation>{name} ({version} ist zu alt)</translation>
    </message>
    <message>
      <source>Registering needs PyTorch: install the PyTorch extension in the Extensions Manager, restart, and try again.</source>
      <translation>Das Registrieren braucht PyTorch: die Erweiterung PyTorch im Extensions Manager installieren, neu starten und noch einmal versuchen.</translation>
    </message>
    <message>
      <source>Registering needs Python packages that are not installed yet or too old: {names}. Install them now? This takes some minutes and up to a few gigabytes.</source>
      <translation>Das Registrieren braucht Python-Pakete, die noch nicht installiert oder zu alt sind: {names}. Jetzt installieren? Das dauert einige Minuten und braucht bis zu einigen Gigabyte.</translation>
    </message>
    <message>
      <source>Registering needs Python packages that were not installed.</source>
      <translation>Das Registrieren braucht Python-Pakete, die nicht installiert wurden.</translation>
    </message>
    <message>
      <source>The report needs Python packages that are not installed yet or too old: {names}. Install them now?</source>
      <translation>Der Bericht braucht Python-Pakete, die noch nicht installiert oder zu alt sind: {names}. Jetzt installieren?</translation>
    </message>
    <message>
      <source>The report needs Python packages that were not installed.</source>
      <translation>Der Bericht braucht Python-Pakete, die nicht installiert wurden.</translation>
    </message>
    <message>
      <source>These packages could not be installed: {names}. See the error log.</source>
      <translation>Diese Pakete ließen sich nicht installieren: {names}. Siehe das Fehlerprotokoll.</translation>
    </message>
    <message>
      <source>{names} was updated: restart Slicer, then try again.</source>
      <translation>{names} wurde erneuert: Slicer neu starten und noch einmal versuchen.</translation>
    </message>
  </context>
  <context>
    <name>ProgressiveRegistrationSlicer.landmark_review</name>
    <message>
      <source>{count} suggestions wait to be looked at and do not count yet.</source>
      <translation>{count} Vorschläge warten darauf, angesehen zu werden, und zählen noch nicht.</translation>
    </message>
    <message>
      <source>Accepted: {matched} where the images match, {moved} moved by hand.</source>
      <translation>Angenommen: {matched}, wo die Bilder übereinstimmen, {moved} von Hand verschoben.</translation>
    </message>
    <message>
      <source>{count} were left where the transform put them: their error is 0 by construction.</source>
      <translation>{count} blieben, wo die Transformation sie hinlegt: Ihr Fehler ist dadurch 0.</translation>
    </message>
    <message>
      <source>Choose the lists of two observers: they are the same.</source>
      <translation>Die Listen zweier Beobachter wählen: Es ist dieselbe.</translation>
    </message>
  </context>
  <context>
    <name>ProgressiveRegistrationSlicer.lung_nodes</name>
    <message>
      <source>{volume} lungs</source>
      <translation>{volume} Lungen</translation>
    </message>
    <message>
      <source>Lungs</source>
      <translation>Lungen</translation>
    </message>
  </context>
  <context>
    <name>ProgressiveRegistrationSlicer.measuring</name>
    <message>
      <source>Select a transform to measure.</source>
      <translation>Eine Transformation wählen, die gemessen werden soll.</translation>
    </message>
    <message>
      <source>Select the fixed and the moving volume that the transform aligns.</source>
      <translation>Das feste und das bewegte Volumen wählen, die die Transformation ausrichtet.</translation>
    </message>
    <message>
      <source>inside the lungs</source>
      <translation>in den Lungen</translation>
    </message>
    <message>
      <source>in the field of view</source>
      <translation>im Bildfeld</translation>
    </message>
    <message>
      <source>Folding {where}: {percent:.3f} % of voxels. Jacobian {mean:.2f} ± {sd:.2f}, from {low:.2f} to {high:.2f}.</source>
      <translation>Faltung {where}: {percent:.3f} % der Voxel. Jacobi-Determinante {mean:.2f} ± {sd:.2f}, von {low:.2f} bis {high:.2f}.</translation>
    </message>
    <message>
      <source>There and back again misses by {mean:.2f} mm on average inside the lungs, {most:.2f} mm at most.</source>
      <translation>Hin und zurück verfehlen sich in den Lungen um {mean:.2f} mm im Mittel, um höchstens {most:.2f} mm.</translation>
    </message>
  </context>
  <context>
    <name>ProgressiveRegistrationSlicer.mrml</name>
    <message>
      <source>{name} is under the non-linear transform {transform}: harden it (Transforms module, Harden transform) or move the node out of it.</source>
      <translation>{name} liegt unter der nichtlinearen Transformation {transform}: sie fest anwenden (Modul Transforms, Harden transform) oder den Knoten herausnehmen.</translation>
    </message>
    <message>
      <source>{name} has no voxels: load or choose another volume.</source>
      <translation>{name} hat keine Voxel: laden oder ein anderes Volumen wählen.</translation>
    </message>
    <message>
      <source>{name} has several values a voxel: choose a CT with one.</source>
      <translation>{name} hat mehrere Werte je Voxel: ein CT mit einem wählen.</translation>
    </message>
    <message>
      <source>{name} is a single slice: choose a 3D volume.</source>
      <translation>{name} ist eine einzelne Schicht: ein 3D-Volumen wählen.</translation>
    </message>
    <message>
      <source>{name} has a geometry without volume: set its spacing and axes.</source>
      <translation>{name} hat eine Geometrie ohne Rauminhalt: Voxelgröße und Achsen setzen.</translation>
    </message>
    <message>
      <source>{name} cannot say where the lungs are: choose a segmentation, a label map or a ROI.</source>
      <translation>{name} kann nicht sagen, wo die Lungen sind: eine Segmentierung, ein Label-Volumen oder eine ROI wählen.</translation>
    </message>
    <message>
      <source>{name} is empty: draw the lung region or choose none.</source>
      <translation>{name} ist leer: die Lungenregion zeichnen oder keine wählen.</translation>
    </message>
    <message>
      <source>{name} has no segment {segment}: choose another one.</source>
      <translation>{name} hat kein Segment {segment}: ein anderes wählen.</translation>
    </message>
    <message>
      <source>{name} has no segment: draw the lung region or choose none.</source>
      <translation>{name} hat kein Segment: die Lungenregion zeichnen oder keine wählen.</translation>
    </message>
    <message>
      <source>{name} is empty: place the ROI around the lungs or choose none.</source>
      <translation>{name} ist leer: die ROI um die Lungen legen oder keine wählen.</translation>
    </message>
  </context>
  <context>
    <name>ProgressiveRegistrationSlicer.mrml_landmarks</name>
    <message>
      <source>{name} has suggestions alone so far: accept them under Make landmarks.</source>
      <translation>{name} hat bisher nur Vorschläge: unter Landmarken setzen annehmen.</translation>
    </message>
    <message>
      <source>{name} has no placed point: place landmarks or choose another list.</source>
      <translation>{name} hat keinen gesetzten Punkt: Landmarken setzen oder eine andere Liste wählen.</translation>
    </message>
    <message>
      <source>{fixed} has {fixed_count} points, {moving} has {moving_count}, and {why} in both lists.</source>
      <translation>{fixed} hat {fixed_count} Punkte, {moving} hat {moving_count}, und {why} in beiden Listen.</translation>
    </message>
    <message>
      <source>{fixed} and {moving} have no landmark that is placed in both: place them.</source>
      <translation>{fixed} und {moving} haben keine Landmarke, die in beiden gesetzt ist: welche setzen.</translation>
    </message>
    <message>
      <source>Landmark error (mm)</source>
      <translation>Landmarkenfehler (mm)</translation>
    </message>
  </context>
  <context>
    <name>ProgressiveRegistrationSlicer.option_list</name>
    <message>
      <source>{name} (not available here)</source>
      <translation>{name} (hier nicht verfügbar)</translation>
    </message>
  </context>
  <context>
    <name>ProgressiveRegistrationSlicer.options</name>
    <message>
      <source>Default: {name} {version}</source>
      <translation>Standard: {name} {version}</translation>
    </message>
    <message>
      <source>Default</source>
      <translation>Standard</translation>
    </message>
    <message>
      <source>No model was found beside the module.</source>
      <translation>Neben dem Modul wurde kein Modell gefunden.</translation>
    </message>
    <message>
      <source>Start from the affine map between the lung boxes alone: for comparison, or with a refining preset.</source>
      <translation>Von der affinen Abbildung zwischen den Lungenboxen allein ausgehen: zum Vergleich, oder mit einer verfeinernden Voreinstellung.</translation>
    </message>
    <message>
      <source>No network</source>
      <translation>Kein Netz</translation>
    </message>
    <message>
      <source>Model</source>
      <translation>Modell</translation>
    </message>
    <message>
      <source>Trained on (scans)</source>
      <translation>Trainiert mit (Scans)</translation>
    </message>
    <message>
      <source>Iterations</source>
      <translation>Iterationen</translation>
    </message>
    <message>
      <source>Measured</source>
      <translation>Gemessen</translation>
    </message>
    <message>
      <source>Licence</source>
      <translation>Lizenz</translation>
    </message>
    <message>
      <source>Checksum</source>
      <translation>Prüfsumme</translation>
    </message>
    <message>
      <source>Auto</source>
      <translation>Selbsttätig</translation>
    </message>
    <message>
      <source>CPU</source>
      <translation>CPU</translation>
    </message>
    <message>
      <source>All segments</source>
      <translation>Alle Segmente</translation>
    </message>
  </context>
  <context>
    <name>ProgressiveRegistrationSlicer.overlays</name>
    <message>
      <source>Displacement (mm)</source>
      <translation>Verschiebung (mm)</translation>
    </message>
  </context>
  <context>
    <name>ProgressiveRegistrationSlicer.panel</name>
    <message>
      <source>Put the scene back as it was before the last registration.</source>
      <translation>Die Szene in den Zustand vor der letzten Registrierung bringen.</translation>
    </message>
    <message>
      <source>This result was loaded with the scene: there is nothing to undo. To take it back, move the volume out of the transform in the Data module.</source>
      <translation>Dieses Ergebnis wurde mit der Szene geladen: Es gibt nichts rückgängig zu machen. Um es zurückzunehmen, das Volumen im Modul Data aus der Transformation nehmen.</translation>
    </message>
    <message>
      <source>The transform to measure: any kind, from this module or another one.</source>
      <translation>Die zu messende Transformation: jeder Art, aus diesem Modul oder einem anderen.</translation>
    </message>
    <message>
      <source>Cancel</source>
      <translation>Abbrechen</translation>
    </message>
    <message>
      <source>Stop; the scene stays as it is.</source>
      <translation>Anhalten; die Szene bleibt, wie sie ist.</translation>
    </message>
    <message>
      <source>Register</source>
      <translation>Registrieren</translation>
    </message>
    <message>
      <source>Align the moving volume to the fixed one.</source>
      <translation>Das bewegte Volumen an das feste anpassen.</translation>
    </message>
    <message>
      <source>There is no transform to judge yet: register, or choose one to evaluate.</source>
      <translation>Es gibt noch keine Transformation zu beurteilen: registrieren, oder eine zum Messen wählen.</translation>
    </message>
    <message>
      <source>Cancelling...</source>
      <translation>Wird abgebrochen ...</translation>
    </message>
    <message>
      <source>Registered in {seconds:.1f} s on {device}.</source>
      <translation>In {seconds:.1f} s auf {device} registriert.</translation>
    </message>
    <message>
      <source>Cancelled; the scene is as it was.</source>
      <translation>Abgebrochen; die Szene ist wie zuvor.</translation>
    </message>
    <message>
      <source>Starting...</source>
      <translation>Beginnt ...</translation>
    </message>
    <message>
      <source>The registration was undone.</source>
      <translation>Die Registrierung wurde zurückgenommen.</translation>
    </message>
    <message>
      <source>{name} follows the landmarks; save it as .tsv or .csv with Save.</source>
      <translation>{name} folgt den Landmarken; mit Save als .tsv oder .csv speichern.</translation>
    </message>
    <message>
      <source>{name} is up to date and follows the landmarks; save it as .tsv or .csv with Save.</source>
      <translation>{name} ist auf dem neuesten Stand und folgt den Landmarken; mit Save als .tsv oder .csv speichern.</translation>
    </message>
    <message>
      <source>Lungs of {litres}; edit them in Segment Editor.</source>
      <translation>Lungen von {litres}; im Segment Editor zu bearbeiten.</translation>
    </message>
    <message>
      <source>The report is in {path}.</source>
      <translation>Der Bericht liegt in {path}.</translation>
    </message>
    <message>
      <source>Choose a folder for the report.</source>
      <translation>Einen Ordner für den Bericht wählen.</translation>
    </message>
  </context>
  <context>
    <name>ProgressiveRegistrationSlicer.readiness</name>
    <message>
      <source>Register</source>
      <translation>Registrieren</translation>
    </message>
    <message>
      <source>Select a fixed volume</source>
      <translation>Festes Volumen wählen</translation>
    </message>
    <message>
      <source>The fixed volume gives the frame that the moving one is aligned to.</source>
      <translation>Das feste Volumen gibt das Koordinatensystem, an das das bewegte angepasst wird.</translation>
    </message>
    <message>
      <source>Select a moving volume</source>
      <translation>Bewegtes Volumen wählen</translation>
    </message>
    <message>
      <source>The moving volume is the one that is aligned.</source>
      <translation>Das bewegte Volumen wird angepasst.</translation>
    </message>
    <message>
      <source>Fixed and moving are the same</source>
      <translation>Fest und bewegt sind dasselbe</translation>
    </message>
    <message>
      <source>Select two different volumes.</source>
      <translation>Zwei verschiedene Volumina wählen.</translation>
    </message>
    <message>
      <source>Choose at least one output</source>
      <translation>Mindestens eine Ausgabe wählen</translation>
    </message>
    <message>
      <source>Tick a transform, a registered volume or a Jacobian volume.</source>
      <translation>Eine Transformation, ein registriertes Volumen oder ein Jacobi-Volumen ankreuzen.</translation>
    </message>
    <message>
      <source>Fixed volume</source>
      <translation>Festes Volumen</translation>
    </message>
    <message>
      <source>Moving volume</source>
      <translation>Bewegtes Volumen</translation>
    </message>
    <message>
      <source>{volume} cannot be used</source>
      <translation>{volume} ist nicht verwendbar</translation>
    </message>
    <message>
      <source>An output is also an input</source>
      <translation>Eine Ausgabe ist auch Eingabe</translation>
    </message>
    <message>
      <source>Choose another volume for the output: inputs are kept.</source>
      <translation>Ein anderes Volumen für die Ausgabe wählen: Eingaben bleiben erhalten.</translation>
    </message>
    <message>
      <source>Two outputs are the same volume</source>
      <translation>Zwei Ausgaben sind dasselbe Volumen</translation>
    </message>
    <message>
      <source>Choose different volumes for the two outputs.</source>
      <translation>Verschiedene Volumen für die beiden Ausgaben wählen.</translation>
    </message>
  </context>
  <context>
    <name>ProgressiveRegistrationSlicer.review_panel</name>
    <message>
      <source>The transform was deleted meanwhile; nothing was suggested.</source>
      <translation>Die Transformation wurde inzwischen gelöscht; nichts wurde vorgeschlagen.</translation>
    </message>
    <message>
      <source>Fixed landmarks</source>
      <translation>Feste Landmarken</translation>
    </message>
    <message>
      <source>Moving landmarks</source>
      <translation>Bewegte Landmarken</translation>
    </message>
    <message>
      <source>{count} landmarks suggested, {matched} with a partner that matches. Look at each, move its points where needed, then accept or reject it.</source>
      <translation>{count} Landmarken vorgeschlagen, {matched} mit einem passenden Partner. Jede ansehen, ihre Punkte verschieben, wo es nötig ist, dann annehmen oder verwerfen.</translation>
    </message>
    <message>
      <source>images match: {value:.2f}</source>
      <translation>Übereinstimmung der Bilder: {value:.2f}</translation>
    </message>
    <message>
      <source>no clear match: the point is where the transform leads</source>
      <translation>keine klare Übereinstimmung: Der Punkt liegt, wo die Transformation hinführt</translation>
    </message>
    <message>
      <source>&lt;b&gt;{label}&lt;/b&gt; ({how}), {left} to go</source>
      <translation>&lt;b&gt;{label}&lt;/b&gt; ({how}), noch {left}</translation>
    </message>
    <message>
      <source>The two observers differ by {mean:.2f} ± {sd:.2f} mm, {most:.2f} mm at most. {how} A landmark error as small as this says no more.</source>
      <translation>Die beiden Beobachter unterscheiden sich um {mean:.2f} ± {sd:.2f} mm, höchstens {most:.2f} mm. {how} Ein so kleiner Landmarkenfehler sagt nicht mehr.</translation>
    </message>
  </context>
  <context>
    <name>ProgressiveRegistrationSlicer.run_log</name>
    <message>
      <source>{moving} to {fixed}, {time}</source>
      <translation>{moving} auf {fixed}, {time}</translation>
    </message>
    <message>
      <source>Preset {preset}, model {model}, {device}, {seconds} s</source>
      <translation>Voreinstellung {preset}, Modell {model}, {device}, {seconds} s</translation>
    </message>
    <message>
      <source>none</source>
      <translation>keines</translation>
    </message>
    <message>
      <source>Started from {name}</source>
      <translation>Ausgegangen von {name}</translation>
    </message>
    <message>
      <source>Folding inside the lungs: {percent:.3f} %</source>
      <translation>Faltung in den Lungen: {percent:.3f} %</translation>
    </message>
    <message>
      <source>TRE {mean:.2f} mm ({before:.2f} mm before) at {count} landmarks</source>
      <translation>TRE {mean:.2f} mm (vorher {before:.2f} mm) an {count} Landmarken</translation>
    </message>
  </context>
  <context>
    <name>ProgressiveRegistrationSlicer.sequence_frames</name>
    <message>
      <source>{name} has no volumes: choose a sequence of CT volumes.</source>
      <translation>{name} hat keine Volumen: eine Sequenz von CT-Volumen wählen.</translation>
    </message>
    <message>
      <source>The sequence</source>
      <translation>Die Sequenz</translation>
    </message>
    <message>
      <source>{name} has {count} frames: there is no frame {frame}.</source>
      <translation>{name} hat {count} Bilder: Ein Bild {frame} gibt es nicht.</translation>
    </message>
    <message>
      <source>{sequence} frame {frame} ({name} {value} {unit})</source>
      <translation>{sequence} Bild {frame} ({name} {value} {unit})</translation>
    </message>
    <message>
      <source>Fixed and moving frame are the same: choose two frames.</source>
      <translation>Festes und bewegtes Bild sind dasselbe: zwei Bilder wählen.</translation>
    </message>
  </context>
  <context>
    <name>ProgressiveRegistrationSlicer.sequence_panel</name>
    <message>
      <source>Sequence (4DCT)</source>
      <translation>Sequenz (4DCT)</translation>
    </message>
    <message>
      <source>Sequence browser with the phases</source>
      <translation>Sequenzbrowser mit den Phasen</translation>
    </message>
    <message>
      <source>The sequence browser that plays the phases.</source>
      <translation>Der Sequenzbrowser, der die Phasen abspielt.</translation>
    </message>
    <message>
      <source>Phases:</source>
      <translation>Phasen:</translation>
    </message>
    <message>
      <source>The last phase leads to the first again</source>
      <translation>Die letzte Phase führt wieder zur ersten</translation>
    </message>
    <message>
      <source>As in a 4DCT; not for follow-ups.</source>
      <translation>Wie in einem 4D-CT; nicht für Verlaufsaufnahmen.</translation>
    </message>
    <message>
      <source>Register all phases</source>
      <translation>Alle Phasen registrieren</translation>
    </message>
    <message>
      <source>To the phase with the smallest lungs: transforms, amplitude, ventilation and uncertainty. Preset, model and device are those of Options.</source>
      <translation>Auf die Phase mit den kleinsten Lungen: Transformationen, Bewegungsweite, Ventilation und Unsicherheit. Voreinstellung, Modell und Gerät sind die unter Optionen.</translation>
    </message>
  </context>
  <context>
    <name>ProgressiveRegistrationSlicer.sequence_scene</name>
    <message>
      <source>{name} reference {phase}</source>
      <translation>{name} Referenz {phase}</translation>
    </message>
    <message>
      <source>phases</source>
      <translation>Phasen</translation>
    </message>
    <message>
      <source>transforms</source>
      <translation>Transformationen</translation>
    </message>
    <message>
      <source>There is no {path}: run sequence again.</source>
      <translation>Es gibt kein {path}: sequence noch einmal laufen lassen.</translation>
    </message>
    <message>
      <source>{path} cannot be written: there is no folder {parent}.</source>
      <translation>{path} kann nicht geschrieben werden: Es gibt keinen Ordner {parent}.</translation>
    </message>
    <message>
      <source>{path} cannot be written: is the disk full?</source>
      <translation>{path} kann nicht geschrieben werden: Ist die Platte voll?</translation>
    </message>
  </context>
  <context>
    <name>ProgressiveRegistrationSlicer.sequence_session</name>
    <message>
      <source>Choose a sequence browser that plays a 4DCT.</source>
      <translation>Einen Sequenzbrowser wählen, der ein 4D-CT abspielt.</translation>
    </message>
    <message>
      <source>{name} plays no volumes: choose the browser of a 4DCT.</source>
      <translation>{name} spielt keine Volumen ab: den Browser eines 4D-CT wählen.</translation>
    </message>
    <message>
      <source>{name} has one volume: a sequence needs two.</source>
      <translation>{name} hat ein einziges Volumen: Eine Sequenz braucht zwei.</translation>
    </message>
    <message>
      <source>Registered {count} phases to {reference}.</source>
      <translation>{count} Phasen auf {reference} registriert.</translation>
    </message>
    <message>
      <source>Amplitude in the lungs: mean {mean:.1f} mm, {percent} {tail:.1f} mm.</source>
      <translation>Bewegungsweite in den Lungen: im Mittel {mean:.1f} mm, {percent} {tail:.1f} mm.</translation>
    </message>
    <message>
      <source>Closing error round the breath: {mean:.2f} mm.</source>
      <translation>Schließfehler über den Atemzug: {mean:.2f} mm.</translation>
    </message>
    <message>
      <source>Expected error: mean {mean_mm:.1f} mm.</source>
      <translation>Zu erwartender Fehler: im Mittel {mean_mm:.1f} mm.</translation>
    </message>
  </context>
  <context>
    <name>ProgressiveRegistrationSlicer.session</name>
    <message>
      <source>Nothing would be kept: ask for a transform, a registered volume or a Jacobian volume.</source>
      <translation>Nichts bliebe erhalten: eine Transformation, ein registriertes Volumen oder ein Jacobi-Volumen verlangen.</translation>
    </message>
    <message>
      <source>{name} is an input: choose another node for the output.</source>
      <translation>{name} ist eine Eingabe: einen anderen Knoten für die Ausgabe wählen.</translation>
    </message>
    <message>
      <source>{name} cannot hold a displacement field: choose a grid transform.</source>
      <translation>{name} kann kein Verschiebungsfeld aufnehmen: eine Gittertransformation wählen.</translation>
    </message>
    <message>
      <source>{name} was deleted while it was being registered; nothing was changed.</source>
      <translation>{name} wurde während des Registrierens gelöscht; nichts wurde verändert.</translation>
    </message>
    <message>
      <source>{moving} to {fixed}</source>
      <translation>{moving} auf {fixed}</translation>
    </message>
    <message>
      <source>{moving} registered</source>
      <translation>{moving} registriert</translation>
    </message>
    <message>
      <source>{moving} Jacobian</source>
      <translation>{moving} Jacobi</translation>
    </message>
    <message>
      <source>{moving} to {fixed} B-spline</source>
      <translation>{moving} auf {fixed} B-Spline</translation>
    </message>
    <message>
      <source>The B-spline differs from the field by {p95:.2f} mm (95 % of the volume).</source>
      <translation>Die B-Spline weicht um {p95:.2f} mm vom Feld ab (95 % des Volumens).</translation>
    </message>
    <message>
      <source>{name} hardened</source>
      <translation>{name} fest angewandt</translation>
    </message>
    <message>
      <source>The chosen output node was deleted meanwhile; a new one was made.</source>
      <translation>Der gewählte Ausgabeknoten wurde inzwischen gelöscht; ein neuer wurde angelegt.</translation>
    </message>
    <message>
      <source>Select a fixed volume.</source>
      <translation>Ein festes Volumen wählen.</translation>
    </message>
    <message>
      <source>Select a moving volume.</source>
      <translation>Ein bewegtes Volumen wählen.</translation>
    </message>
    <message>
      <source>Fixed and moving are the same: select two volumes.</source>
      <translation>Festes und bewegtes sind dasselbe: zwei Volumen wählen.</translation>
    </message>
  </context>
  <context>
    <name>ProgressiveRegistrationSlicer.settings_panel</name>
    <message>
      <source>The settings {name} are in use.</source>
      <translation>Die Einstellungen {name} werden verwendet.</translation>
    </message>
    <message>
      <source>The settings {name} are kept on this computer.</source>
      <translation>Die Einstellungen {name} sind auf diesem Rechner gespeichert.</translation>
    </message>
    <message>
      <source>The settings {name} are deleted.</source>
      <translation>Die Einstellungen {name} sind gelöscht.</translation>
    </message>
    <message>
      <source>{fixed} and {moving} are copies of the two frames.</source>
      <translation>{fixed} und {moving} sind Kopien der beiden Bilder.</translation>
    </message>
  </context>
  <context>
    <name>ProgressiveRegistrationSlicer.tre_panel</name>
    <message>
      <source>Landmark</source>
      <translation>Landmarke</translation>
    </message>
    <message>
      <source>Before (mm)</source>
      <translation>Vorher (mm)</translation>
    </message>
    <message>
      <source>After (mm)</source>
      <translation>Nachher (mm)</translation>
    </message>
    <message>
      <source>Select fixed and moving landmarks to see their error.</source>
      <translation>Feste und bewegte Landmarken wählen, um ihren Fehler zu sehen.</translation>
    </message>
    <message>
      <source>Fixed and moving landmarks are the same list.</source>
      <translation>Feste und bewegte Landmarken sind dieselbe Liste.</translation>
    </message>
    <message>
      <source>Before</source>
      <translation>Vorher</translation>
    </message>
    <message>
      <source>After</source>
      <translation>Nachher</translation>
    </message>
    <message>
      <source>Target registration error in mm, not snapped to voxels.</source>
      <translation>Zielregistrierungsfehler in mm, nicht auf Voxel gerundet.</translation>
    </message>
    <message>
      <source>Landmark errors</source>
      <translation>Landmarkenfehler</translation>
    </message>
    <message>
      <source>Landmark error vectors</source>
      <translation>Fehlerpfeile der Landmarken</translation>
    </message>
  </context>
  <context>
    <name>ProgressiveRegistrationSlicer.trust</name>
    <message>
      <source>Expected error in the lungs: mean {mean:.1f} mm, 95 % of places below {p95:.1f} mm, largest {most:.1f} mm.</source>
      <translation>Zu erwartender Fehler in den Lungen: im Mittel {mean:.1f} mm, 95 % der Orte unter {p95:.1f} mm, größter {most:.1f} mm.</translation>
    </message>
    <message>
      <source>Do not trust it where it is red: above {limit:.0f} mm, {percent:.1f} % of the lungs.</source>
      <translation>Wo es rot ist, ist dem Ergebnis nicht zu trauen: über {limit:.0f} mm, {percent:.1f} % der Lungen.</translation>
    </message>
    <message>
      <source>Nowhere in the lungs is it above {limit:.0f} mm.</source>
      <translation>Nirgends in den Lungen liegt er über {limit:.0f} mm.</translation>
    </message>
  </context>
  <context>
    <name>ProgressiveRegistrationSlicer.user_settings</name>
    <message>
      <source>Type a name for the settings.</source>
      <translation>Einen Namen für die Einstellungen eingeben.</translation>
    </message>
    <message>
      <source>There are no settings named {name}.</source>
      <translation>Es gibt keine Einstellungen mit dem Namen {name}.</translation>
    </message>
  </context>
  <context>
    <name>ProgressiveRegistrationSlicer.work</name>
    <message>
      <source>about {seconds} s left</source>
      <translation>noch etwa {seconds} s</translation>
    </message>
    <message>
      <source>about {minutes} min left</source>
      <translation>noch etwa {minutes} min</translation>
    </message>
  </context>
  <context>
    <name>qSlicerAbstractCoreModule</name>
    <message>
      <source>Registration</source>
      <translation>Registrierung</translation>
    </message>
  </context>
</TS>
